"""What an Invoker does for a batch whose items have ended: judge the rest, apply, undo, finish.

Each step is decided and done in one transaction under the tenant's lock, so of any number of Invokers one
does it, and a crash does all of it or nothing. That no item is applied twice does not rest on the lock alone:
an item has one deed of each purpose, ever, under an idempotency key of its own.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger import (
    batch,
    batch_deed,
    batch_resend,
    batch_review,
    batch_sample,
    batch_target,
    batch_undo,
)
from holdfast.ledger.batch_deed import Given
from holdfast.ledger.domain.batch import BatchStatus, ItemStatus
from holdfast.ledger.domain.batch_apply import (
    DEFAULT_SAMPLE,
    FOLLOW_UPS,
    WINDOW,
    Applied,
    Apply,
    Ask,
    Begin,
    Draw,
    JudgeRest,
    Meet,
    Policy,
    RestJudged,
    Undo,
    Wait,
    Work,
    allowance,
    allowed_in,
    next_work,
    saved,
)
from holdfast.ledger.domain.batch_sample import Strata
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.values import Invocation

MOST_DRAWN: Final = 1000


@dataclass(frozen=True, slots=True)
class Applying:
    """A batch that may need something."""

    batch_id: UUID
    tenant: str


@dataclass(slots=True)
class Worked:
    """How many items moved or were given to do, pools that got work, and whether it needs nobody any more.

    `wait_s` is in how many seconds the rate lets more be applied, if that is what it waits for.
    """

    items: int = 0
    pools: list[str] = field(default_factory=list)
    rests: bool = False
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Composers:
    """Make the runs that apply, judge and undo an item; `undoes` says whether a target has one that does."""

    follow_up: Callable[[Given], Invocation]
    judge: Callable[[Given], Invocation]
    undo: Callable[[Given], Invocation]
    undoes: Callable[[bytes], bool]


_ACTIVE: Final = "SELECT batch_id, tenant FROM batch_applying WHERE batch_id > $1 ORDER BY batch_id LIMIT 100"
_BATCH: Final = """
SELECT *, extract(epoch FROM clock_timestamp()
                  - greatest(apply_clock, clock_timestamp() - interval '1000 days'))::float8 AS waited_s
FROM batch WHERE batch_id = $1 AND tenant = $2 FOR NO KEY UPDATE
"""
_COUNTS: Final = "SELECT status, n FROM batch_count WHERE batch_id = $1"
_LEAVE: Final = "DELETE FROM batch_applying WHERE batch_id = $1"
_REST_JUDGED: Final = "UPDATE batch SET rest_status = 0 WHERE batch_id = $1"
_SAMPLE: Final = "UPDATE batch SET sample = $2, to_ask = $3 WHERE batch_id = $1"
# What was saved up beyond a second's worth is forgotten.
_PAY: Final = """
UPDATE batch
SET apply_clock = greatest(apply_clock, clock_timestamp() - make_interval(secs => $3 / apply_per_second))
                  + make_interval(secs => $2 / apply_per_second)
WHERE batch_id = $1 AND apply_per_second > 0
"""
_TRIED_AGAIN: Final = "UPDATE batch SET undo_again = $2 WHERE batch_id = $1"
_WALKED: Final = "UPDATE batch SET undo_before = $2 WHERE batch_id = $1"


async def applying(connection: Connection, *, after: UUID) -> list[Applying]:
    """Read batches that may need something, by id."""
    return [Applying(row["batch_id"], row["tenant"]) for row in await connection.fetch(_ACTIVE, after)]


async def work_on(db: Database, which: Applying, compose: Composers, *, window: int | None = None) -> Worked:
    """Do the next step for a batch. Repeatable, by any number of Invokers at once."""

    async def once() -> Worked:
        async with db.transaction() as connection:
            await lock_tenants(connection, [which.tenant])
            row = await connection.fetchrow(_BATCH, which.batch_id, which.tenant)
            counts = await connection.fetch(_COUNTS, which.batch_id)
            return await _step(_Doing(connection, row, _work(row, counts, window), compose))

    return await db.retrying(once)


def _work(row: Any, counts: Sequence[Any], window: int | None) -> Work:
    by_run = bool(row["apply_target"]) and not row["apply_destination"]
    return Work(
        status=BatchStatus(row["status"]),
        counts={ItemStatus(count["status"]): count["n"] for count in counts},
        judging=row["rest_status"] > 0,
        policy=Policy(row["min_accepted_share"], row["min_judged"]),
        judged=row["judged"],
        accepted=row["judged_accepted"],
        met=row["policy_met"],
        asks_agent=bool(row["reviewer_intent"]),
        drawn=row["sample"] is not None,
        to_ask=row["to_ask"],
        applies_when_met=row["apply_when_met"],
        window=window or (FOLLOW_UPS if by_run else WINDOW),
        allowed=allowance(row["apply_per_second"], row["waited_s"]),
        allowed_in_s=allowed_in(row["apply_per_second"], row["waited_s"]),
        undoing=row["undoing"],
    )


@dataclass(frozen=True, slots=True)
class _Doing:
    """A locked batch, in the transaction in which something is done for it."""

    connection: Connection
    row: Any
    work: Work
    compose: Composers

    async def leave(self) -> Worked:
        """Let it rest until someone asks or news comes."""
        await self.connection.execute(_LEAVE, self.row["batch_id"])
        return Worked(rests=True)


async def _step(doing: _Doing) -> Worked:
    step = next_work(doing.work)
    do = _DO.get(type(step))
    if do is not None:
        return await do(doing, step)
    assert isinstance(step, Wait)  # all others have somebody who does them
    return await doing.leave() if step.done else Worked(wait_s=step.seconds)


async def _judge_rest(doing: _Doing, _: Any) -> Worked:
    return Worked(await batch_review.judge_rest(doing.connection, doing.row))


async def _rest_judged(doing: _Doing, _: Any) -> Worked:
    await doing.connection.execute(_REST_JUDGED, doing.row["batch_id"])
    return Worked(1)


async def _meet(doing: _Doing, _: Any) -> Worked:
    await batch_review.meet(doing.connection, doing.row)
    return Worked(1)


async def _draw(doing: _Doing, _: Any) -> Worked:
    """Draw as many as the policy counts, spread over the classes, and as many again to replace them."""
    row = doing.row
    size = min(row["min_judged"] or DEFAULT_SAMPLE, MOST_DRAWN)
    first = await _sample(doing, size)
    spare = [index for index in await _sample(doing, 2 * size) if index not in set(first)]
    await doing.connection.execute(_SAMPLE, row["batch_id"], first + spare, len(first))
    return Worked(1)


async def _sample(doing: _Doing, size: int) -> list[int]:
    strata = Strata(by_label=bool(doing.row["label_field"]))
    drawn = await batch_sample.draw(
        doing.connection, doing.row["batch_id"], size, strata, seed=0, unjudged_only=True
    )
    return [index for stratum in drawn for index in stratum.indexes]


async def _ask(doing: _Doing, step: Ask) -> Worked:
    """Ask the reviewing agent about a chunk of its sample; what a full queue refuses is asked later."""
    connection, row = doing.connection, doing.row
    some, others = row["sample"][: step.items], row["sample"][step.items :]
    given = await batch_deed.items(connection, row, some)
    later, failed, pools = await batch_deed.ask(connection, row, given, doing.compose.judge)
    to_ask = row["to_ask"] - len(some) + len(later) + len(failed)
    sample = later + others
    await connection.execute(_SAMPLE, row["batch_id"], sample, min(to_ask, len(sample)))
    return Worked(len(some) - len(later), pools)


async def _begin(doing: _Doing, _: Any) -> Worked:
    await batch_target.begin_by_policy(doing.connection, doing.row)
    return Worked(1)


async def _apply(doing: _Doing, step: Apply) -> Worked:
    connection, row = doing.connection, doing.row
    given = await batch_deed.accepted(connection, row, step.items)
    done, pools = await batch_deed.apply(connection, row, given, doing.compose.follow_up)
    if done and row["apply_per_second"]:
        await connection.execute(_PAY, row["batch_id"], float(done), saved(row["apply_per_second"]))
    return Worked(done, pools)


async def _undo(doing: _Doing, step: Undo) -> Worked:
    """Undo a chunk, first of what could not be undone before.

    The walk begins anew until one finds nothing, as what was on its way arrives late.
    """
    connection, row, work = doing.connection, doing.row, doing.work
    which = batch_target.stored_filter(row)
    if row["undo_again"] is not None:
        last = await batch_resend.undo_again(connection, row, which, step.items)
        await connection.execute(_TRIED_AGAIN, row["batch_id"], last)
        return Worked(1)
    given, last = await batch_undo.applied(connection, row, batch_deed.filter_arguments(which), step.items)
    if given:
        compose = doing.compose
        run = compose.undo if compose.undoes(row["apply_target"] or b"") else None
        done, pools = await batch_undo.undo(connection, row, given, run)
        if done:  # with a full queue the walk stays where it is
            await connection.execute(_WALKED, row["batch_id"], last)
        return Worked(done, pools)
    if row["undo_before"] is not None:
        await connection.execute(_WALKED, row["batch_id"], None)
        return Worked(1)
    if work.undoing or work.count(ItemStatus.APPLYING):
        return Worked()
    await batch.move(connection, row, BatchStatus.ROLLED_BACK)
    return await doing.leave()


async def _applied(doing: _Doing, _: Any) -> Worked:
    await batch.move(doing.connection, doing.row, BatchStatus.APPLIED)
    return await doing.leave()


_DO: Final[dict[type, Callable[[_Doing, Any], Awaitable[Worked]]]] = {
    JudgeRest: _judge_rest,
    RestJudged: _rest_judged,
    Meet: _meet,
    Draw: _draw,
    Ask: _ask,
    Begin: _begin,
    Apply: _apply,
    Undo: _undo,
    Applied: _applied,
}
