"""Items of a batch run as many at a time as may be, move with their runs, and count where they stand."""

import asyncio
import uuid

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import (
    BatchNotFound,
    BatchNotReady,
    IdempotencyKeyReused,
    InvalidField,
    StreamProtocol,
)
from holdfast.ledger import batch, batch_retry, batch_view
from holdfast.ledger.batch import NewBatch, NewItem
from holdfast.ledger.batch_view import ItemFilter
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem
from holdfast.ledger.domain.batch import BatchStatus
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.values import Failure, Leased, Outcome
from tests.support.batch import counts, new_batch, seen, step
from tests.support.ledger import execute, fetch, finish, opened


async def fail(
    db: Database, run: Leased, status: RunStatus = RunStatus.FAILED, reason: str = "PERMANENT"
) -> None:
    outcome = Outcome(status, failure=Failure(reason, f"Because of {reason}."))
    (answer,) = await commit_group(db, [CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=outcome)])
    assert type(answer).__name__ == "Stored"


async def test_items_become_runs_up_to_the_parallelism_and_outputs_are_staged(db: Database) -> None:
    which = await new_batch(db, 5, max_parallelism=2)
    runner = await opened(db)
    assert (await step(db, which)).items == 2
    assert (await step(db, which)).items == 0
    assert await counts(db, which) == {"PENDING": 3, "RUNNING": 2}
    for _ in range(3):
        for run in await runner.take(5):
            await finish(db, run)
        await step(db, which)
    assert await counts(db, which) == {"STAGED": 5}
    assert (await step(db, which)).rests
    assert (await seen(db, which)).status is BatchStatus.IN_REVIEW
    assert not await fetch(db, "SELECT FROM batch_run")
    assert not await fetch(db, "SELECT FROM batch_active")
    async with db.connection() as connection:
        items, last = await batch_view.list_items(connection, which.batch_id, ItemFilter(), limit=3)
        rest, end = await batch_view.list_items(
            connection, which.batch_id, ItemFilter(), limit=3, after=last or 0
        )
    assert [item.index for item in items + rest] == [0, 1, 2, 3, 4]
    assert end is None
    assert {item.output for item in items} == {b'"done"'}


async def test_items_that_do_not_succeed_are_skipped_with_the_reason_and_grouped(db: Database) -> None:
    which = await new_batch(db, 3, skip_staging=True)
    runner = await opened(db)
    await step(db, which)
    first, second, third = await runner.take(3)
    await fail(db, first)
    await fail(db, second, RunStatus.DEAD_LETTERED, "KeyError")
    await finish(db, third)
    assert await counts(db, which) == {"SKIPPED": 2, "SUCCEEDED": 1}
    await step(db, which)
    done = await seen(db, which)
    assert done.status is BatchStatus.COMPLETED
    async with db.connection() as connection:
        progress = await batch_view.progress(connection, done)
        by = ItemFilter(failure_reason="KeyError")
        (item,), _ = await batch_view.list_items(connection, which.batch_id, by, limit=5)
    assert {group.reason: group.count for group in progress.errors} == {"PERMANENT": 1, "KeyError": 1}
    assert item.failure == Failure("KeyError", "Because of KeyError.")
    assert progress.total == 3 == sum(progress.latency.values())


async def test_a_set_aside_item_is_tried_as_often_as_it_may_be(db: Database) -> None:
    which = await new_batch(db, 1, max_attempts=2, initial_backoff_ms=0)
    runner = await opened(db)
    for after in ("PENDING", "SKIPPED"):
        assert (await step(db, which)).items == 1
        (run,) = await runner.take()
        await fail(db, run, RunStatus.DEAD_LETTERED, "Flaky")
        assert await counts(db, which) == {after: 1}


async def test_too_many_failures_pause_until_someone_resumes(db: Database) -> None:
    which = await new_batch(db, 6, max_parallelism=2, tolerated_items=1)
    runner = await opened(db)
    await step(db, which)
    for run in await runner.take(2):
        await fail(db, run)
    await step(db, which)
    held = await seen(db, which)
    assert held.status is BatchStatus.PAUSED
    assert held.resume_status is BatchStatus.RUNNING
    assert held.reason == "2 items were skipped; 1 are tolerated."
    assert (await batch.resume(db, "acme", which.batch_id)).status is BatchStatus.RUNNING
    assert (await step(db, which)).items == 2


async def test_a_paused_batch_starts_nothing_and_its_runs_end(db: Database) -> None:
    which = await new_batch(db, 4, max_parallelism=2)
    runner = await opened(db)
    await step(db, which)
    await batch.pause(db, "acme", which.batch_id, "lunch")
    assert (await batch.pause(db, "acme", which.batch_id, "again")).reason == "lunch"
    for run in await runner.take(4):
        await finish(db, run)
    assert (await step(db, which)).items == 0
    assert await counts(db, which) == {"PENDING": 2, "STAGED": 2}
    await batch.resume(db, "acme", which.batch_id)
    assert (await step(db, which)).items == 2


async def test_cancelling_clears_what_waits_and_stops_what_runs(db: Database) -> None:
    which = await new_batch(db, 4, max_parallelism=2)
    runner = await opened(db)
    await step(db, which)
    (leased,) = await runner.take(1)
    await batch.cancel(db, "acme", which.batch_id, "enough")
    await cancel_orphans(db)
    await step(db, which)
    assert await counts(db, which) == {"CANCELLED": 3, "RUNNING": 1}
    await fail(db, leased, RunStatus.CANCELLED, "CANCELLED")
    assert await counts(db, which) == {"CANCELLED": 4}
    assert (await step(db, which)).rests
    with pytest.raises(BatchNotReady):
        await batch.start(db, "acme", which.batch_id)


async def test_skipped_items_are_tried_again(db: Database) -> None:
    which = await new_batch(db, 3)
    runner = await opened(db)
    await step(db, which)
    for run in await runner.take(3):
        await fail(db, run)
    await step(db, which)
    only = ItemFilter(keys=("0", "1"))
    assert (await batch_retry.retry_items(db, "acme", which.batch_id, only, dry_run=True))[1] == 2
    view, count = await batch_retry.retry_items(db, "acme", which.batch_id, only)
    assert (view.status, count) == (BatchStatus.RUNNING, 2)
    assert (await step(db, which)).items == 2
    for run in await runner.take(3):
        await finish(db, run)
    assert await counts(db, which) == {"STAGED": 2, "SKIPPED": 1}
    async with db.connection() as connection:
        progress = await batch_view.progress(connection, view)
    assert [group.count for group in progress.errors] == [1]


async def test_an_item_tried_again_by_hand_has_all_its_tries_anew_and_keeps_the_count(db: Database) -> None:
    which = await new_batch(db, 1, max_attempts=2, initial_backoff_ms=0)
    runner = await opened(db)
    for ends in (("PENDING", "SKIPPED"), ("PENDING", "SKIPPED")):
        for after in ends:
            assert (await step(db, which)).items == 1
            (run,) = await runner.take()
            await fail(db, run, RunStatus.DEAD_LETTERED, "Flaky")
            assert await counts(db, which) == {after: 1}
        await step(db, which)
        await batch_retry.retry_items(db, "acme", which.batch_id, ItemFilter())
    (row,) = await fetch(db, "SELECT attempts FROM batch_item")
    assert row["attempts"] == 4
    assert len(await fetch(db, "SELECT FROM run")) == 4, "each under a key of its own"


async def test_what_was_skipped_is_not_tried_again_while_a_batch_is_held_at_something_else(
    db: Database,
) -> None:
    which = await new_batch(db, 1)
    runner = await opened(db)
    await step(db, which)
    (run,) = await runner.take()
    await fail(db, run)
    await step(db, which)
    for resume in (BatchStatus.APPLYING, BatchStatus.ROLLING_BACK):
        await execute(db, "UPDATE batch SET status = 9, resume_status = $1", int(resume))
        for dry_run in (True, False):
            with pytest.raises(BatchNotReady):
                await batch_retry.retry_items(db, "acme", which.batch_id, ItemFilter(), dry_run=dry_run)
    assert await counts(db, which) == {"SKIPPED": 1}
    await execute(db, "UPDATE batch SET status = 9, resume_status = $1", int(BatchStatus.RUNNING))
    assert (await batch_retry.retry_items(db, "acme", which.batch_id, ItemFilter()))[1] == 1


async def test_in_order_the_next_waits_for_the_one_before_even_while_that_backs_off(db: Database) -> None:
    which = await new_batch(
        db, 3, in_order=True, max_attempts=3, initial_backoff_ms=3_600_000, max_backoff_ms=3_600_000
    )
    runner = await opened(db)
    assert (await step(db, which)).items == 1
    (run,) = await runner.take(3)
    await fail(db, run, RunStatus.DEAD_LETTERED, "Flaky")
    assert (await step(db, which)).items == 0
    await execute(db, "UPDATE batch_item SET not_before = now() WHERE index = 0")
    assert (await step(db, which)).items == 1
    (row,) = await fetch(db, "SELECT index FROM batch_item WHERE status = 2")
    assert row["index"] == 0


async def test_an_upload_goes_on_where_it_stopped_and_stores_nothing_twice(db: Database) -> None:
    which = await new_batch(db, 0, start=False, start_when_uploaded=False)
    fresh = await batch.create(
        db, NewBatch(uuid.uuid4(), "acme", "count", idempotency_key="k", fingerprint=b"f", spec=b"")
    )
    batch_id = fresh.batch.batch_id
    items = [NewItem(key, b"{}") for key in ("a", "b", "", "d")]
    assert await batch.append(db, "acme", batch_id, 0, items[:2]) == 2
    assert await batch.append(db, "acme", batch_id, 0, items) == 4
    assert await batch.append(db, "acme", batch_id, 1, items[1:3]) == 4
    with pytest.raises(StreamProtocol):
        await batch.append(db, "acme", batch_id, 5, items)
    with pytest.raises(InvalidField) as wrong:
        await batch.append(db, "acme", batch_id, 4, [NewItem("e", b"{}"), NewItem("a", b"{}")])
    assert wrong.value.violations[0].field == "chunk.items[1].key"
    with pytest.raises(StreamProtocol):
        await batch.complete(db, "acme", batch_id, 5)
    assert (await batch.complete(db, "acme", batch_id, 4)).status is BatchStatus.READY
    assert await counts(db, fresh.batch) == {"PENDING": 4}
    again = NewBatch(uuid.uuid4(), "acme", "count", idempotency_key="k", fingerprint=b"f", spec=b"")
    found = await batch.create(db, again)
    assert (found.reattached, found.batch.batch_id) == (True, batch_id)
    with pytest.raises(IdempotencyKeyReused):
        await batch.create(db, NewBatch(uuid.uuid4(), "acme", "x", "k", b"other", b""))
    assert which.batch_id != batch_id


async def test_a_tenant_never_sees_or_moves_anothers_batch(db: Database) -> None:
    which = await new_batch(db, 2, start=False)
    async with db.connection() as connection:
        with pytest.raises(BatchNotFound):
            await batch_view.get(connection, "other", which.batch_id)
        assert await batch_view.list_batches(connection, "other", batch_view.BatchFilter(), limit=5) == (
            [],
            None,
        )
    for verb in (
        batch.start(db, "other", which.batch_id),
        batch.pause(db, "other", which.batch_id, ""),
        batch.resume(db, "other", which.batch_id),
        batch.cancel(db, "other", which.batch_id, ""),
        batch.append(db, "other", which.batch_id, 0, []),
        batch.update(db, "other", which.batch_id, max_parallelism=1),
        batch_retry.retry_items(db, "other", which.batch_id, ItemFilter()),
    ):
        with pytest.raises(BatchNotFound):
            await verb
    assert await counts(db, which) == {"PENDING": 2}


async def test_labels_and_confidence_are_read_of_outputs_that_have_them_and_bad_ones_do_no_harm(
    db: Database,
) -> None:
    which = await new_batch(db, 3, label_field="industry", confidence_field="sure")
    runner = await opened(db)
    await step(db, which)
    outputs = [b'{"industry": "retail", "sure": 0.5}', b'{"industry": "a\\u0000b", "sure": "no"}', b"[1]"]
    for run, output in zip(await runner.take(3), outputs, strict=True):
        item = CommitItem(run.run_id, run.epoch, 1, move=Outcome(RunStatus.SUCCEEDED, output))
        await commit_group(db, [item])
    rows = await fetch(db, "SELECT label, confidence FROM batch_item ORDER BY label DESC")
    assert [tuple(row) for row in rows] == [("retail", 0.5), ("", None), ("", None)]
    assert await counts(db, which) == {"STAGED": 3}


async def test_two_invokers_at_once_start_each_item_once(db: Database) -> None:
    which = await new_batch(db, 40, max_parallelism=10_000)
    done = await asyncio.gather(*(step(db, which) for _ in range(4)))
    assert sum(each.items for each in done) == 40
    assert len(await fetch(db, "SELECT FROM run")) == 40


async def test_a_full_queue_leaves_items_waiting(db: Database) -> None:
    which = await new_batch(db, 5)
    await execute(
        db,
        "INSERT INTO tenant (tenant, max_queued) VALUES ('acme', 2) "
        "ON CONFLICT (tenant) DO UPDATE SET max_queued = 2",
    )
    assert (await step(db, which)).items == 2
    assert await counts(db, which) == {"PENDING": 3, "RUNNING": 2}
