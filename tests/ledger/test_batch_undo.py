"""What follow-up runs have done is undone by runs, once each; those that have not ended are stopped."""

import asyncio

from holdfast.kit.db import Database
from holdfast.ledger import batch_view
from holdfast.ledger.batch_target import Target
from holdfast.ledger.batch_view import BatchView, ItemFilter, ItemView
from holdfast.ledger.domain.batch import BatchStatus
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.retry import retry
from holdfast.ledger.values import Leased
from tests.support.batch import counts, seen
from tests.support.batch_apply import (
    UNDONE_BY_RUN,
    accept_all,
    apply,
    check,
    in_review,
    news,
    roll_back,
    work,
    worked_off,
)
from tests.support.ledger import Runner, execute, fetch, finish


async def applied(db: Database, items: int, target: Target = UNDONE_BY_RUN) -> tuple[BatchView, Runner]:
    """Return a batch that follow-up runs have applied, and the runner that ran them."""
    which = await in_review(db, items)
    await accept_all(db, which)
    await apply(db, which, target)
    await worked_off(db, which)
    runner = Runner(db)
    await runner.open()
    for run in await runner.take(items):
        await finish(db, run)
    await worked_off(db, which)
    assert (await seen(db, which)).status is BatchStatus.APPLIED
    return which, runner


async def taken(db: Database, runner: Runner) -> dict[str, Leased]:
    """Take what is queued; by idempotency key."""
    runs = {run.run_id: run for run in await runner.take(100)}
    rows = await fetch(db, "SELECT run_id, idempotency_key FROM run WHERE run_id = ANY($1)", list(runs))
    return {row["idempotency_key"]: runs[row["run_id"]] for row in rows}


async def item(db: Database, which: BatchView, index: int) -> ItemView:
    async with db.connection() as connection:
        return (await batch_view.these_items(connection, which.batch_id, [index]))[0]


async def test_a_run_undoes_each_item_once_and_what_it_cannot_undo_says_why(db: Database) -> None:
    which, runner = await applied(db, 4)
    assert await roll_back(db, which) == 4
    for _ in range(3):
        await asyncio.gather(work(db, which), work(db, which), news(db))
    runs = await taken(db, runner)
    assert set(runs) == {f"batch/{which.batch_id}/{index}/undo" for index in range(4)}
    assert await counts(db, which) == {"APPLIED": 4}, "until the undoing run has succeeded"
    (row,) = await fetch(db, "SELECT undoing FROM batch WHERE batch_id = $1", which.batch_id)
    assert row["undoing"] == 4
    await check(db, which)
    broken = runs.pop(f"batch/{which.batch_id}/2/undo")
    await finish(db, broken, RunStatus.FAILED)
    for run in runs.values():
        await finish(db, run)
    await worked_off(db, which)
    assert await counts(db, which) == {"ROLLED_BACK": 3, "ROLLBACK_FAILED": 1}
    assert (await seen(db, which)).status is BatchStatus.ROLLED_BACK
    failed = await item(db, which, 2)
    assert (failed.undo_run_id, failed.undo_effect_id) == (broken.run_id, None)
    assert failed.failure is not None
    assert failed.follow_up_run_id not in (None, failed.undo_run_id)
    await roll_back(db, which)
    await worked_off(db, which)
    assert await taken(db, runner) == {}, "one undo ever: it is retried where it is"
    assert (await seen(db, which)).status is BatchStatus.ROLLED_BACK
    await check(db, which)
    await retry(db, "acme", broken.run_id)
    (again,) = (await taken(db, runner)).values()
    await finish(db, again)
    await worked_off(db, which)
    assert await counts(db, which) == {"ROLLED_BACK": 4}
    await check(db, which)


async def test_without_an_undo_what_a_run_did_stays_and_says_so(db: Database) -> None:
    which, runner = await applied(db, 2, Target(b"run"))
    await roll_back(db, which)
    await worked_off(db, which)
    assert await counts(db, which) == {"ROLLBACK_FAILED": 2}
    why = (await item(db, which, 0)).failure
    assert why is not None
    assert (why.reason, "without an undo" in why.message) == ("NOT_UNDOABLE", True)
    assert await taken(db, runner) == {}


async def test_of_runs_that_have_not_ended_those_are_stopped_that_leave_nothing_half_done(
    db: Database,
) -> None:
    which = await in_review(db, 5)
    await accept_all(db, which)
    await apply(db, which, UNDONE_BY_RUN)
    await worked_off(db, which)
    runner = Runner(db)
    await runner.open()
    first = await runner.take(3)
    keys = await fetch(
        db,
        "SELECT run_id, idempotency_key FROM run WHERE run_id = ANY($1)",
        [run.run_id for run in first],
    )
    own = {row["run_id"]: int(row["idempotency_key"].split("/")[2]) for row in keys}
    names = [(await item(db, which, index)).key for index in range(5)]
    stays, waits, undoes = (own[run.run_id] for run in first)
    # As after a step with an undo: of an agent that undoes after a cancellation, and of one that does not.
    both = [first[0].run_id, first[2].run_id]
    await execute(db, "UPDATE run_state SET undo_on = 3 WHERE run_id = ANY($1)", both)
    await execute(db, "UPDATE run_state SET undo_on = 1 WHERE run_id = $1", first[1].run_id)
    others = tuple(name for index, name in enumerate(names) if index != stays)
    await roll_back(db, which, ItemFilter(keys=others))
    asked = await fetch(
        db,
        """SELECT d.index, s.cancel_requested, s.cancel_reason FROM batch_deed d
           JOIN run_state s ON s.run_id = d.id WHERE d.batch_id = $1 ORDER BY d.index""",
        which.batch_id,
    )
    assert {row["index"] for row in asked if row["cancel_requested"]} == set(range(5)) - {stays, waits}
    assert {row["cancel_reason"] for row in asked if row["cancel_requested"]} == {"wrong"}
    await cancel_orphans(db)
    await finish(db, first[2])  # it was faster than the request to stop
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 1, "APPLYING": 2, "APPLY_FAILED": 2}
    assert (await seen(db, which)).status is BatchStatus.ROLLING_BACK
    why = (await item(db, which, next(iter(set(range(5)) - set(own.values()))))).failure
    assert why is not None
    assert (why.reason, why.message) == ("CANCELLED", "wrong")
    await finish(db, first[1])
    await worked_off(db, which)
    undos = await taken(db, runner)
    assert set(undos) == {f"batch/{which.batch_id}/{index}/undo" for index in (waits, undoes)}
    for run in (*undos.values(), first[0]):
        await finish(db, run)
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 1, "ROLLED_BACK": 2, "APPLY_FAILED": 2}
    assert (await seen(db, which)).status is BatchStatus.ROLLED_BACK
    await check(db, which)


async def test_undoing_runs_for_which_the_queue_has_no_room_are_admitted_later(db: Database) -> None:
    which, runner = await applied(db, 5)
    await execute(db, "UPDATE tenant SET max_queued = 2 WHERE tenant = 'acme'")
    await roll_back(db, which)
    for _ in range(5):
        await work(db, which)
    idle = [(await work(db, which)).items for _ in range(3)]
    assert idle == [0, 0, 0], "a full queue is not asked again and again"
    seen_keys: list[str] = []
    for _ in range(3):
        runs = await taken(db, runner)
        assert len(runs) <= 2
        seen_keys += runs
        for run in runs.values():
            await finish(db, run)
        for _ in range(4):
            await news(db)
            await work(db, which)
    assert sorted(seen_keys) == sorted(f"batch/{which.batch_id}/{index}/undo" for index in range(5))
    await worked_off(db, which)
    assert await counts(db, which) == {"ROLLED_BACK": 5}
    await check(db, which)
