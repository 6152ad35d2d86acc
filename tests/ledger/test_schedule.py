"""A time fires once, however many fire; what it meets, a pause, an outage or the one before, decides how."""

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import InvalidField, QueueFull, ScheduleExists, ScheduleNotFound
from holdfast.ledger import schedule, tenant
from holdfast.ledger.domain.schedule import Origin, Overlap, Result, Timing
from holdfast.ledger.look import look
from holdfast.ledger.schedule_ask import backfill, trigger
from holdfast.ledger.schedule_fire import fire_due
from holdfast.ledger.schedule_row import Schedule
from holdfast.ledger.values import Invocation, RunStatus
from tests.support.ledger import (
    FILL_TIMEOUT_S,
    contradictions,
    execute,
    fetch,
    finish,
    open_ledger,
    opened,
    status_of,
)
from tests.support.schedule import HOUR, fall_due, fire, fires, look_again, read, starter, wanted

SECOND = timedelta(seconds=1)


async def runs(db: Database) -> int:
    return int((await fetch(db, "SELECT count(*) AS n FROM run"))[0]["n"])


async def end_all(db: Database) -> None:
    runner = await opened(db)
    for lease in await runner.take(50):
        await finish(db, lease)


async def test_a_due_time_starts_its_run_and_the_next_is_set(db: Database) -> None:
    made = await schedule.create(db, wanted())
    assert made.next_time is not None
    assert made.next_time > made.create_time
    assert (await fire(db)).count == 0, "never early"
    await fall_due(db)
    fired = await fire(db)
    assert (fired.count, fired.pools) == (1, ["count"])
    (one,) = await fires(db)
    assert (one.result, one.origin) == (Result.STARTED, Origin.DUE)
    assert one.run_id is not None
    assert await status_of(db, one.run_id) is RunStatus.QUEUED
    after = await read(db)
    assert after.next_time == one.scheduled_time + HOUR
    assert (await fire(db)).count == 0
    assert await contradictions(db) == []


async def test_many_processes_fire_each_time_once(database_url: str, db: Database) -> None:
    for n in range(30):
        await schedule.create(db, wanted(f"s{n}", tenant=f"t{n % 3}"))
        await fall_due(db, f"s{n}")
    async with open_ledger(database_url) as second, open_ledger(database_url) as third:
        counts = await asyncio.gather(
            *(fire_due(one, starter, limit=3) for one in (db, second, third) for _ in range(15))
        )
    assert sum(each.count for each in counts) == 30
    assert await runs(db) == 30
    assert await contradictions(db) == []


async def test_a_time_that_has_started_something_starts_nothing_more_if_it_comes_again(db: Database) -> None:
    await schedule.create(db, wanted())
    await fall_due(db)
    before = await read(db)
    await fire(db)
    await end_all(db)
    await execute(db, "UPDATE schedule SET next_time = $1, due_time = $1, wake_time = $1", before.next_time)
    await fire(db)
    first, second = await fires(db)
    assert first.run_id == second.run_id
    assert await runs(db) == 1


@pytest.mark.parametrize("policy", list(Overlap))
async def test_what_a_time_meets_is_treated_as_the_policy_says(db: Database, policy: Overlap) -> None:
    await schedule.create(db, wanted(overlap=policy))
    for _ in range(3):
        await fall_due(db)
        await fire(db)
    told = [one.result for one in await fires(db)]
    first = (await fires(db))[0].run_id
    if policy is Overlap.SKIP:
        assert told == [Result.STARTED, Result.SKIPPED_OVERLAP, Result.SKIPPED_OVERLAP]
    elif policy is Overlap.QUEUE:
        assert told == [Result.STARTED, Result.QUEUED, Result.SKIPPED_OVERLAP]
    else:
        assert told == [Result.STARTED] * 3
        assert first is not None
        assert await status_of(db, first) is RunStatus.CANCELLED
    await end_all(db)
    await look_again(db)
    await fire(db)
    told = [one.result for one in await fires(db)]
    assert await runs(db) == {Overlap.SKIP: 1, Overlap.QUEUE: 2, Overlap.CANCEL_OLDER: 3}[policy]
    assert Result.QUEUED not in told
    assert await contradictions(db) == []


async def test_what_waits_is_looked_at_again_until_the_older_one_has_ended(db: Database) -> None:
    await schedule.create(db, wanted(overlap=Overlap.QUEUE))
    for _ in range(2):
        await fall_due(db)
        await fire(db)
    for _ in range(3):
        waking = (await read(db)).wake_time
        assert waking is not None
        assert waking < datetime.now(UTC) + timedelta(seconds=6)
        await look_again(db)
        async with db.connection() as connection:
            assert (await look(connection)).scheduled
        await fire(db)
        assert await runs(db) == 1
    await end_all(db)
    await look_again(db)
    await fire(db)
    assert await runs(db) == 2
    assert (await read(db)).wake_time == (await read(db)).due_time


async def test_missed_times_within_the_window_are_made_up_for_in_order(db: Database) -> None:
    await schedule.create(db, wanted(catch_up=timedelta(hours=3)))
    await fall_due(db, late=timedelta(hours=5, minutes=30))
    started = []
    for _ in range(6):
        await look_again(db)
        await fire(db)
        await end_all(db)
        started = [one for one in await fires(db) if one.result is Result.STARTED]
    left = [one for one in await fires(db) if one.result is Result.SKIPPED_MISSED]
    assert len(left) == 1, "many missed times are one line"
    assert [one.origin for one in started] == [Origin.CATCH_UP] * 3
    times = [one.scheduled_time for one in started]
    assert times == sorted(times)
    assert times[1] - times[0] == HOUR
    assert left[0].scheduled_time < times[0]
    after = await read(db)
    assert after.next_time is not None
    assert after.next_time == times[-1] + HOUR > datetime.now(UTC)


async def test_a_long_outage_of_a_quick_schedule_costs_little(db: Database) -> None:
    every = Timing(interval=SECOND, anchor=datetime(2026, 1, 1, tzinfo=UTC))
    await schedule.create(db, wanted(timing=every, catch_up=timedelta(days=31)))
    await fall_due(db, late=timedelta(days=30))
    async with asyncio.timeout(20):
        await fire(db)
    (row,) = await fetch(db, "SELECT count(*) AS n FROM schedule_pending")
    assert row["n"] == 1000
    after = await read(db)
    assert after.next_time is not None
    assert after.next_time > datetime.now(UTC) - timedelta(seconds=5)


async def test_times_of_a_pause_are_left_out_and_a_trigger_fires_all_the_same(db: Database) -> None:
    await schedule.create(db, wanted())
    await schedule.pause(db, "acme", "nightly", "holidays")
    assert (await schedule.pause(db, "acme", "nightly", "again")).wanted.pause_reason == "holidays"
    assert (await read(db)).wake_time is None
    told, _ = await trigger(db, "acme", "nightly", starter, overlap=Overlap.QUEUE)
    waits, _ = await trigger(db, "acme", "nightly", starter, overlap=Overlap.QUEUE)
    assert (told.result, waits.result) == (Result.STARTED, Result.QUEUED)
    await end_all(db)
    await look_again(db)
    await fire(db)
    assert await runs(db) == 2
    await execute(db, "UPDATE schedule SET next_time = now() - interval '30 s', due_time = now()")
    resumed = await schedule.resume(db, "acme", "nightly")
    assert resumed.next_time is not None
    assert resumed.next_time > datetime.now(UTC)
    assert not resumed.wanted.paused
    await fire(db)
    assert await runs(db) == 2


async def test_a_trigger_with_a_key_fires_once(db: Database) -> None:
    before = await schedule.create(db, wanted())
    first, _ = await trigger(db, "acme", "nightly", starter, key="k")
    again = await asyncio.gather(*(trigger(db, "acme", "nightly", starter, key="k") for _ in range(4)))
    assert all(fire == first for fire, _ in again)
    await execute(db, "DELETE FROM schedule_fire")
    late, _ = await trigger(db, "acme", "nightly", starter, key="k")
    assert late.run_id == first.run_id
    skipped, _ = await trigger(db, "acme", "nightly", starter)
    assert skipped.result is Result.SKIPPED_OVERLAP
    assert await runs(db) == 1
    assert (await read(db)).next_time == before.next_time


async def test_a_refused_trigger_has_done_nothing_and_a_refused_time_is_told(db: Database) -> None:
    await schedule.create(db, wanted())
    await tenant.change(db, "acme", {"max_queued": 1}, make=True)
    await execute(db, "UPDATE tenant SET max_queued = 0")
    with pytest.raises(QueueFull):
        await trigger(db, "acme", "nightly", starter, key="k")
    assert await fires(db) == []
    await fall_due(db)
    await fire(db)
    (one,) = await fires(db)
    assert (one.result, one.run_id) == (Result.FAILED, None)
    assert "full" in one.message
    assert (await read(db)).next_time == one.scheduled_time + HOUR


async def test_a_backfill_fires_what_has_started_nothing_one_after_the_other(db: Database) -> None:
    await schedule.create(db, wanted())
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    start, end = now - timedelta(hours=4), now
    counted = await backfill(db, "acme", "nightly", start, end, dry_run=True)
    assert [time.hour for time in counted.times] == [(start + n * HOUR).hour for n in range(4)]
    assert await fetch(db, "SELECT FROM schedule_pending") == []
    assert len((await backfill(db, "acme", "nightly", start, end)).times) == 4
    await backfill(db, "acme", "nightly", start, end)
    for n in range(1, 6):
        await look_again(db)
        await fire(db)
        await fire(db)
        assert await runs(db) == min(n, 4)
        await end_all(db)
    told = await fires(db)
    assert [(one.origin, one.result) for one in told] == [(Origin.BACKFILL, Result.STARTED)] * 4
    assert (await backfill(db, "acme", "nightly", start, end)).times == []


async def test_a_backfill_goes_on_waiting_while_the_queue_is_full(db: Database) -> None:
    await schedule.create(db, wanted())
    await tenant.change(db, "acme", {"weight": 1}, make=True)
    await execute(db, "UPDATE tenant SET max_queued = 0")
    now = datetime.now(UTC)
    await backfill(db, "acme", "nightly", now - 2 * HOUR, now)
    await fire(db)
    assert (await runs(db), await fires(db)) == (0, [])
    await execute(db, "UPDATE tenant SET max_queued = 9")
    await look_again(db)
    await fire(db)
    assert await runs(db) == 1


async def test_a_backfill_of_the_future_or_of_too_many_is_refused(db: Database) -> None:
    await schedule.create(db, wanted())
    now = datetime.now(UTC)
    for start, end in ((now - HOUR, now + HOUR), (now - timedelta(days=800), now)):
        with pytest.raises(InvalidField) as caught:
            await backfill(db, "acme", "nightly", start, end)
        assert [one.field for one in caught.value.violations] == ["end_time"]


async def test_a_name_stands_for_one_schedule_of_its_tenant(db: Database) -> None:
    first = await schedule.create(db, wanted())
    assert (await schedule.create(db, wanted())).schedule_id == first.schedule_id
    with pytest.raises(ScheduleExists):
        await schedule.create(db, wanted(fingerprint=b"other"))
    other = await schedule.create(db, wanted(tenant="umbrella", fingerprint=b"other"))
    assert other.schedule_id != first.schedule_id
    await schedule.delete(db, "umbrella", "nightly")
    with pytest.raises(ScheduleNotFound):
        await read(db, tenant="umbrella")
    assert (await read(db)).schedule_id == first.schedule_id
    with pytest.raises(ScheduleNotFound):
        await trigger(db, "umbrella", "nightly", starter)
    with pytest.raises(ScheduleNotFound):
        await backfill(db, "umbrella", "nightly", first.create_time, first.create_time)


async def test_what_would_never_fire_is_refused_but_found_again(db: Database) -> None:
    soon = datetime.now(UTC) + SECOND * 0.2
    once = wanted(timing=Timing(at=soon))
    await schedule.create(db, once)
    with pytest.raises(InvalidField):
        await schedule.create(db, wanted("late", timing=Timing(at=datetime(2020, 1, 1, tzinfo=UTC))))
    await execute(db, "SELECT pg_sleep(0.3)")
    await fire(db)
    after = await schedule.create(db, once)
    assert (after.next_time, after.wake_time) == (None, None)
    assert await runs(db) == 1


async def test_an_update_keeps_what_is_due_unless_the_rule_changes(db: Database) -> None:
    await schedule.create(db, wanted())
    await fall_due(db)
    (row,) = await fetch(db, "SELECT timing FROM schedule")
    timing = Timing.from_plain(json.loads(row["timing"]))
    kept = await schedule.update(db, wanted(timing=timing, overlap=Overlap.QUEUE))
    assert kept.next_time is not None
    assert kept.next_time < datetime.now(UTC)
    changed = await schedule.update(db, wanted(timing=Timing(cron="0 0 1 1 *")))
    assert changed.next_time is not None
    assert (changed.next_time.month, changed.next_time.day) == (1, 1)
    with pytest.raises(ScheduleNotFound):
        await schedule.update(db, wanted("other"))


async def test_one_schedule_that_cannot_start_keeps_no_other_from_firing(db: Database) -> None:
    for name in ("bad", "good"):
        await schedule.create(db, wanted(name))
        await fall_due(db, name)

    def picky(one: Schedule, time: datetime, key: str) -> Invocation:
        if one.wanted.name == "bad":
            raise RuntimeError("cannot be read")
        return starter(one, time, key)

    await fire_due(db, picky)
    assert [one.result for name in ("bad", "good") for one in await fires(db, name)] == [
        Result.FAILED,
        Result.STARTED,
    ]


async def test_only_the_latest_times_are_kept(db: Database) -> None:
    await schedule.create(db, wanted())
    for _ in range(25):
        await fall_due(db)
        await fire(db)
    assert len(await fetch(db, "SELECT FROM schedule_fire")) == 20
    assert len((await read(db)).fires) == 20


@pytest.mark.timeout(300)
async def test_looking_costs_the_same_with_a_hundred_thousand_schedules(db: Database) -> None:
    await schedule.create(db, wanted())
    async with db.transaction() as connection:
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute(
            """
            INSERT INTO schedule (schedule_id, tenant, name, definition, fingerprint, timing, intent, labels,
                                  overlap, catch_up_s, paused, pause_reason, next_time, due_time, wake_time)
            SELECT gen_random_uuid(), 't' || n % 100, 's' || n, definition, fingerprint, timing, intent,
                   labels, overlap, catch_up_s, false, '', now() + interval '1 d', now() + interval '1 d',
                   now() + interval '1 d' * (n % 1000)  + interval '1 h'
            FROM schedule, generate_series(1, 100000) n
            """,
            timeout=FILL_TIMEOUT_S,
        )
        await connection.execute("ANALYZE schedule", timeout=FILL_TIMEOUT_S)
    from holdfast.ledger.look import _LOOK
    from holdfast.ledger.schedule import _LIST
    from holdfast.ledger.schedule_fire import _DUE

    for query, arguments in (
        (_LOOK, ([], [])),
        (_DUE, (64,)),
        (_LIST, ("t7", "", "", None, "{}", 51)),
    ):
        async with db.connection() as connection:
            rows = await connection.fetch(f"EXPLAIN {query}", *arguments)
        plan = "\n".join(row[0] for row in rows)
        assert "Seq Scan on schedule" not in plan, plan
        assert "schedule_wake" in plan or "schedule_tenant_name_key" in plan, plan


def test_ids_make_different_delays() -> None:
    from holdfast.ledger.timing import due_time

    rule = Timing(interval=HOUR, anchor=datetime(2026, 1, 1, tzinfo=UTC), jitter=timedelta(minutes=10))
    time = datetime(2026, 5, 1, tzinfo=UTC)
    ids = [uuid.UUID(int=n) for n in range(200)]
    delays = [due_time(one, rule, time) - time for one in ids]
    assert delays == [due_time(one, rule, time) - time for one in ids], "fixed per schedule and time"
    assert len(set(delays)) == 200
    assert all(timedelta() <= each < timedelta(minutes=10) for each in delays)
    assert max(delays) - min(delays) > timedelta(minutes=8)
