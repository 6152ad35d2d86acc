"""A time makes its batch once, however many fire; the batch counts as running until it is over."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from holdfast.kit.db import Database
from holdfast.ledger import batch, batch_source, schedule
from holdfast.ledger.admission import Placements
from holdfast.ledger.batch_advance import Active, advance
from holdfast.ledger.domain.batch import BatchStatus
from holdfast.ledger.domain.schedule import Origin, Overlap, Result
from holdfast.ledger.schedule_ask import backfill, trigger
from holdfast.ledger.schedule_fire import fire_due
from tests.support.batch import compose
from tests.support.ledger import contradictions, execute, fetch, open_ledger
from tests.support.schedule import (
    HOUR,
    batch_starter,
    fall_due,
    fire,
    fires,
    look_again,
    read,
    starter,
    wanted,
)


async def batches(db: Database) -> dict[UUID, BatchStatus]:
    """Return where the batches stand, the oldest first."""
    rows = await fetch(db, "SELECT batch_id, status FROM batch ORDER BY seq")
    return {row["batch_id"]: BatchStatus(row["status"]) for row in rows}


async def end_all(db: Database) -> None:
    """Read the sources of all batches, which have no rows, and let the batches end."""
    for turn in await batch_source.take(db, 100):
        await batch_source.finish(db, turn)
        await advance(db, Active(turn.batch_id, turn.tenant), compose, lambda _: Placements())


async def test_a_due_time_makes_its_batch_with_what_is_to_be_read(db: Database) -> None:
    await schedule.create(db, wanted())
    await fall_due(db)
    fired = await fire(db, batch_starter)
    assert (fired.count, fired.pools, fired.batches) == (1, [], 1)
    (one,) = await fires(db)
    ((batch_id, status),) = (await batches(db)).items()
    assert (one.result, one.run_id, one.batch_id) == (Result.STARTED, None, batch_id)
    assert status is BatchStatus.UPLOADING
    (row,) = await fetch(db, "SELECT b.schedule FROM batch b JOIN batch_source s USING (batch_id)")
    assert row["schedule"] == "nightly"
    assert (await read(db)).batch_id == batch_id
    assert await contradictions(db) == []


async def test_many_processes_make_the_batch_of_each_time_once(database_url: str, db: Database) -> None:
    for n in range(30):
        await schedule.create(db, wanted(f"s{n}", tenant=f"t{n % 3}"))
        await fall_due(db, f"s{n}")
    async with open_ledger(database_url) as second, open_ledger(database_url) as third:
        counts = await asyncio.gather(
            *(fire_due(one, batch_starter, limit=3) for one in (db, second, third) for _ in range(15))
        )
    assert sum(each.count for each in counts) == 30
    assert len(await batches(db)) == 30


async def test_a_time_that_has_made_a_batch_makes_nothing_more_whatever_comes_later(
    db: Database,
) -> None:
    await schedule.create(db, wanted())
    await fall_due(db)
    before = await read(db)
    for make in (batch_starter, batch_starter, starter):
        await execute(
            db, "UPDATE schedule SET next_time = $1, due_time = $1, wake_time = $1", before.next_time
        )
        await fire(db, make)
        await end_all(db)
    told = await fires(db)
    assert [(one.result, one.batch_id) for one in told] == [(Result.STARTED, told[0].batch_id)] * 3
    assert (len(await batches(db)), await fetch(db, "SELECT FROM run")) == (1, [])


@pytest.mark.parametrize("policy", list(Overlap))
async def test_a_batch_counts_as_running_until_it_is_over(db: Database, policy: Overlap) -> None:
    await schedule.create(db, wanted(overlap=policy))
    await fall_due(db)
    await fire(db, batch_starter)
    first = (await fires(db))[0].batch_id
    assert first is not None
    for status in (BatchStatus.READY, BatchStatus.PAUSED, BatchStatus.IN_REVIEW, BatchStatus.APPLYING):
        await execute(db, "UPDATE batch SET status = $1 WHERE batch_id = $2", int(status), first)
        if policy is Overlap.CANCEL_OLDER:
            break
        await fall_due(db)
        await fire(db, batch_starter)
        assert (await batches(db)).keys() == {first}
    told = [one.result for one in await fires(db)]
    if policy is Overlap.SKIP:
        assert told == [Result.STARTED, *[Result.SKIPPED_OVERLAP] * 4]
    elif policy is Overlap.QUEUE:
        assert told == [Result.STARTED, Result.QUEUED, *[Result.SKIPPED_OVERLAP] * 3]
    else:
        await fall_due(db)
        assert (await fire(db, batch_starter)).batches == 2
        assert list((await batches(db)).values()) == [BatchStatus.CANCELLED, BatchStatus.UPLOADING]
        (row,) = await fetch(db, "SELECT reason FROM batch WHERE batch_id = $1", first)
        assert row["reason"] == "Its schedule has started a newer one."
    if policy is Overlap.QUEUE:
        await execute(
            db, "UPDATE batch SET status = $1 WHERE batch_id = $2", int(BatchStatus.IN_REVIEW), first
        )
        await batch.cancel(db, "acme", first, "")
        await look_again(db)
        await fire(db, batch_starter)
        assert [one.result for one in await fires(db)].count(Result.STARTED) == 2


async def test_what_a_schedule_started_last_decides_also_if_it_starts_something_else_by_now(
    db: Database,
) -> None:
    await schedule.create(db, wanted())
    await fall_due(db)
    await fire(db, batch_starter)
    await fall_due(db)
    await fire(db, starter)
    assert (await fires(db))[-1].result is Result.SKIPPED_OVERLAP
    await end_all(db)
    await fall_due(db)
    await fire(db, starter)
    after = await read(db)
    assert (after.run_id is None, after.batch_id) == (False, None)
    await fall_due(db)
    await fire(db, batch_starter)
    assert (await fires(db))[-1].result is Result.SKIPPED_OVERLAP


async def test_a_trigger_with_a_key_makes_one_batch_also_in_a_pause(db: Database) -> None:
    await schedule.create(db, wanted(paused=True))
    first, _ = await trigger(db, "acme", "nightly", batch_starter, key="k")
    assert first.batch_id is not None
    again = await asyncio.gather(*(trigger(db, "acme", "nightly", batch_starter, key="k") for _ in range(4)))
    assert all(fire == first for fire, _ in again)
    await execute(db, "DELETE FROM schedule_fire")
    late, _ = await trigger(db, "acme", "nightly", batch_starter, key="k")
    assert late.batch_id == first.batch_id
    assert len(await batches(db)) == 1


async def test_missed_and_past_times_are_made_up_for_one_batch_after_the_other(db: Database) -> None:
    await schedule.create(db, wanted(catch_up=3 * HOUR))
    await fall_due(db, late=timedelta(hours=2, minutes=30))
    for n in (1, 2, 3, 3):
        await look_again(db)
        await fire(db, batch_starter)
        await fire(db, batch_starter)
        assert len(await batches(db)) == n
        await end_all(db)
    caught_up = await fires(db)
    assert [(one.origin, one.result) for one in caught_up] == [(Origin.CATCH_UP, Result.STARTED)] * 3
    start, now = caught_up[0].scheduled_time - 2 * HOUR, datetime.now(UTC)
    assert len((await backfill(db, "acme", "nightly", start, now)).times) == 2, "three have made batches"
    for _ in range(3):
        await look_again(db)
        await fire(db, batch_starter)
        await end_all(db)
    assert len(await batches(db)) == 5
    assert (await backfill(db, "acme", "nightly", start, now)).times == []
    assert set((await batches(db)).values()) == {BatchStatus.COMPLETED}
