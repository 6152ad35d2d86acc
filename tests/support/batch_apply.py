"""What tests of reviews, applying and rolling back share: a batch in review, worked on by hand."""

import uuid
from typing import Any

from holdfast.kit.db import Database
from holdfast.ledger import batch_news, batch_review, batch_target, outbox_claim, outbox_settle
from holdfast.ledger.batch_deed import APPLIES, JUDGES, UNDOES, Given
from holdfast.ledger.batch_news import arrived, hear
from holdfast.ledger.batch_target import Target
from holdfast.ledger.batch_view import BatchView, ItemFilter
from holdfast.ledger.batch_work import Applying, Composers, Worked, work_on
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.values import Invocation, Outcome
from tests.support.batch import new_batch, step
from tests.support.ledger import Runner, fetch, finish, invocation
from tests.support.outbox import came_of

CRM = Target(b"crm", "crm", "crm-undo")
UNDONE_BY_RUN = Target(b"run and undo")


def _run_of(given: Given, purpose: int) -> Invocation:
    return invocation(tenant=given.tenant, idempotency_key=given.name(purpose), shape=4)


COMPOSERS = Composers(
    lambda given: _run_of(given, APPLIES),
    lambda given: _run_of(given, JUDGES),
    lambda given: _run_of(given, UNDOES),
    lambda target: target == UNDONE_BY_RUN.stored,
)


async def in_review(db: Database, items: int, **more: Any) -> BatchView:
    """Return a batch whose items have all succeeded: item n says `{"industry": ..., "sure": ...}`."""
    values: dict[str, Any] = {"max_parallelism": 250, "label_field": "industry", "confidence_field": "sure"}
    which = await new_batch(db, items, **values | more)
    runner = Runner(db)
    await runner.open()
    left = items
    while left:
        await step(db, which)
        taken = await runner.take(250)
        assert taken
        said = {run.run_id: b'{"industry":"%s","sure":%.2f}' % _of(n) for n, run in enumerate(taken)}
        await commit_group(
            db,
            [
                CommitItem(run.run_id, run.epoch, 1, move=Outcome(RunStatus.SUCCEEDED, said[run.run_id]))
                for run in taken
            ],
        )
        left -= len(taken)
    await step(db, which)
    return which


def _of(n: int) -> tuple[bytes, float]:
    return (b"retail", b"health", b"mining")[0 if n % 10 < 7 else 1 if n % 10 < 9 else 2], (n % 10) / 10


async def work(db: Database, which: BatchView, **more: Any) -> Worked:
    return await work_on(db, Applying(which.batch_id, which.tenant), COMPOSERS, **more)


async def worked_off(db: Database, which: BatchView, *, rounds: int = 1000) -> None:
    """Do step after step, with whatever news there is, until nothing is to be done without news."""
    for _ in range(rounds):
        heard = await news(db)
        done = await work(db, which)
        if not done.items and not heard:
            return
    raise AssertionError("it goes on and on")


async def news(db: Database) -> int:
    """Hear whatever has arrived; return how many notes."""
    found, _ = await arrived(db)
    for each in found:
        await hear(db, each, batch_news.judgement)
    return sum(len(each.notes) for each in found)


async def accept_all(db: Database, which: BatchView) -> None:
    await batch_review.review(db, which.tenant, which.batch_id, [], batch_review.Rest(accepted=True))
    await worked_off(db, which)


async def apply(db: Database, which: BatchView, target: Target | None = CRM, **more: Any) -> int:
    return (await batch_target.apply(db, which.tenant, which.batch_id, target, **more))[1]


async def roll_back(
    db: Database, which: BatchView, items: ItemFilter | None = None, *, dry_run: bool = False
) -> int:
    asked = items or ItemFilter()
    return (await batch_target.rollback(db, which.tenant, which.batch_id, "wrong", asked, dry_run=dry_run))[1]


class Dispatcher:
    """A dispatcher without a network: says of each effect what the test says."""

    def __init__(self, db: Database, session_id: uuid.UUID) -> None:
        self.db, self.session_id = db, session_id

    async def send(self, n: int = 10_000, status: EffectStatus = EffectStatus.DELIVERED) -> int:
        """Send up to n effects that are due; return how many."""
        claimed = await outbox_claim.claim(self.db, self.session_id, wanted=n)
        settlements = [came_of(delivery, status) for delivery in claimed.deliveries]
        await outbox_settle.settle(self.db, self.session_id, settlements, lambda breaker, *_: breaker)
        return len(settlements)


class Followers:
    """What ends follow-up runs and undoing ones, in a dispatcher's place: as the test says."""

    def __init__(self, db: Database, runner: Runner) -> None:
        self.db, self.runner = db, runner

    async def send(self, n: int = 10_000, status: EffectStatus = EffectStatus.DELIVERED) -> int:
        """End up to n runs that are queued; return how many."""
        await cancel_orphans(self.db)
        runs = await self.runner.take(n)
        for run in runs:
            done = status is EffectStatus.DELIVERED
            await finish(self.db, run, RunStatus.SUCCEEDED if done else RunStatus.FAILED)
        return len(runs)


async def effects(db: Database, which: BatchView) -> list[Any]:
    return await fetch(
        db,
        "SELECT *, convert_from(body, 'UTF8') AS text FROM effect WHERE idempotency_key LIKE $1 ORDER BY seq",
        f"batch/{which.batch_id}/%",
    )


async def check(db: Database, which: BatchView) -> None:
    """Hold the deeds, the reviews and what the batch counts of them against the items."""
    (row,) = await fetch(db, "SELECT * FROM batch WHERE batch_id = $1", which.batch_id)
    (said,) = await fetch(
        db,
        """SELECT count(*) FILTER (WHERE single) AS judged,
                  count(*) FILTER (WHERE single AND status = 4) AS accepted
           FROM batch_review WHERE batch_id = $1""",
        which.batch_id,
    )
    assert (row["judged"], row["judged_accepted"]) == (said["judged"], said["accepted"])
    wrong = await fetch(
        db,
        """SELECT i.index, i.status, count(d.id) AS deeds, count(e.effect_id) + count(s.run_id) AS there
           FROM batch_item i
           LEFT JOIN batch_deed d ON d.batch_id = i.batch_id AND d.index = i.index AND d.purpose = 1
           LEFT JOIN effect e ON e.effect_id = d.id LEFT JOIN run s ON s.run_id = d.id
           WHERE i.batch_id = $1 GROUP BY i.index, i.status
           HAVING count(d.id) <> count(e.effect_id) + count(s.run_id)
               OR (i.status IN (7, 8, 10, 11)) AND count(d.id) <> 1
               OR (i.status < 7) AND count(d.id) <> 0""",
        which.batch_id,
    )
    assert wrong == []
    (undos,) = await fetch(
        db,
        """SELECT count(*) AS n FROM batch_deed d JOIN batch_item i USING (batch_id, index)
           WHERE batch_id = $1 AND purpose = 2 AND i.status = 8""",
        which.batch_id,
    )
    assert undos["n"] == row["undoing"]
