"""A parked run is held by nobody and always woken: by a signal, by its time, or it ends; and once by each."""

import asyncio
import time
import uuid
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import RunEnded
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, CommitResult, Park, Refused, Stored
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.due import fire
from holdfast.ledger.due_wake import LOOKED_AT, ROUND, SHARE, wake_due
from holdfast.ledger.inspect import transcript
from holdfast.ledger.mailbox import deliver, signal
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.values import Leased, Limits
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    invocation,
    opened,
    status_of,
)

DAY = 24 * 3600.0


async def running(db: Database, runner: Runner, **more: Any) -> Leased:
    (run,) = await admitted(db, invocation(**more), on=runner.idle())
    assert run.lease
    return run.lease


async def park(
    db: Database, run: Leased, *keys: str, seconds: float | None = None, consumed: tuple[str, ...] = ()
) -> CommitResult:
    item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=Park(keys, seconds), consumed=consumed)
    return (await commit_group(db, [item]))[0]


async def parked(db: Database, runner: Runner, *keys: str, **more: Any) -> Leased:
    run = await running(db, runner)
    assert await park(db, run, *keys, **more) == Stored(RunStatus.PARKED, cancel_requested=False)
    return run


async def send(db: Database, run_id: uuid.UUID, key: str, signal_id: str = "") -> list[str]:
    return (await signal(db, "acme", run_id, key=key, payload=b"1", signal_id=signal_id)).pools


async def time_comes(db: Database, run_id: uuid.UUID) -> None:
    await execute(db, "UPDATE timer SET due_time = clock_timestamp() WHERE run_id = $1 AND kind = 3", run_id)


async def test_a_parked_run_is_held_by_nobody_and_a_signal_under_its_key_wakes_it(db: Database) -> None:
    runner = await opened(db)
    run = await parked(db, runner, "answer", "other")
    assert await fetch(db, "SELECT FROM lease") == []
    assert await runner.take() == []
    assert await send(db, run.run_id, "else") == []
    assert await status_of(db, run.run_id) is RunStatus.PARKED
    assert await send(db, run.run_id, "answer") == ["count@1"]
    (again,) = await runner.take()
    assert (again.run_id, again.attempt, again.epoch) == (run.run_id, 1, run.epoch + 1)
    assert again.mail_last == 2
    assert isinstance(await finish(db, again), Stored)
    assert await contradictions(db) == []


async def test_a_signal_that_comes_before_the_park_sends_the_run_back_at_once(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await send(db, run.run_id, "answer")
    assert await park(db, run, "answer") == Stored(RunStatus.QUEUED, cancel_requested=False)
    (again,) = await runner.take()
    assert again.attempt == 1
    assert await contradictions(db) == []


async def test_what_the_parking_commit_consumes_does_not_call_the_run_back(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await send(db, run.run_id, "answer", "first")
    assert await park(db, run, "answer", consumed=("first",)) == Stored(
        RunStatus.PARKED, cancel_requested=False
    )


async def test_a_signal_and_a_park_at_the_same_time_never_miss_each_other(db: Database) -> None:
    runner = await opened(db)
    for _ in range(30):
        run = await running(db, runner)
        await asyncio.gather(park(db, run, "answer"), send(db, run.run_id, "answer"))
        assert await status_of(db, run.run_id) is RunStatus.QUEUED
        (again,) = await runner.take()
        await finish(db, again)
    assert await contradictions(db) == []


async def test_many_signals_at_once_wake_a_run_once(db: Database) -> None:
    runner = await opened(db)
    run = await parked(db, runner, "answer", seconds=DAY)
    pools = await asyncio.gather(*(send(db, run.run_id, "answer") for _ in range(12)))
    assert sorted(map(len, pools)) == [0] * 11 + [1]
    assert [lease.run_id for lease in await runner.take(5)] == [run.run_id]
    assert await fetch(db, "SELECT FROM timer WHERE kind = 3") == []
    assert await contradictions(db) == []


async def test_its_time_wakes_a_run_once_and_never_before(db: Database) -> None:
    runner = await opened(db)
    began = time.monotonic()
    run = await parked(db, runner, seconds=0.4)
    async with asyncio.timeout(10):
        while not (woken := await wake_due(db)).count:
            pass
    assert time.monotonic() - began >= 0.4
    assert (woken.count, woken.pools) == (1, ["count@1"])
    assert (await wake_due(db)).count == 0
    assert [lease.run_id for lease in await runner.take()] == [run.run_id]
    assert await contradictions(db) == []


async def test_a_time_that_is_over_when_it_parks_sends_a_run_back_at_once(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    assert await park(db, run, "answer", seconds=0) == Stored(RunStatus.QUEUED, cancel_requested=False)


async def test_a_signal_and_the_time_wake_a_run_once_together(db: Database) -> None:
    runner = await opened(db)
    for _ in range(20):
        run = await parked(db, runner, "answer", seconds=DAY)
        await time_comes(db, run.run_id)
        woken, pools, again = await asyncio.gather(wake_due(db), send(db, run.run_id, "answer"), wake_due(db))
        assert woken.count + len(pools) + again.count >= 1
        (lease,) = await runner.take(3)
        await finish(db, lease)
    assert await contradictions(db) == []


async def test_a_parking_is_told_with_what_wakes_the_run(db: Database) -> None:
    runner = await opened(db)
    run = await parked(db, runner, "answer", seconds=DAY)
    async with db.connection() as connection:
        rows = await transcript(connection, "acme", run.run_id)
    (note,) = [row.note for row in rows if row.note and row.note["kind"] == "parked"]
    assert (note["kind"], note["keys"], "until" in note) == ("parked", ["answer"], True)


async def test_a_parked_run_ends_when_it_is_cancelled_or_its_deadline_comes(db: Database) -> None:
    runner = await opened(db)
    run = await parked(db, runner, "answer", seconds=DAY)
    assert (await cancel(db, "acme", run.run_id)).status is RunStatus.CANCELLED
    with pytest.raises(RunEnded):
        await send(db, run.run_id, "answer")
    late = await running(db, runner, limits=Limits(deadline_ms=1))
    await park(db, late, "answer")
    assert (await fire(db)).moved.ended == [late.run_id]
    assert await status_of(db, late.run_id) is RunStatus.PARTIAL
    assert await fetch(db, "SELECT FROM timer") == []
    assert await contradictions(db) == []


async def test_a_run_that_is_to_be_cancelled_ends_instead_of_parking(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await cancel(db, "acme", run.run_id)
    assert await park(db, run, "answer") == Stored(RunStatus.CANCELLED, cancel_requested=True)


async def test_a_lost_lease_parks_nothing_and_a_repeated_park_parks_once(db: Database) -> None:
    runner = await opened(db)
    run = await parked(db, runner, "answer")
    assert isinstance(await park(db, run, "answer"), Stored)
    await send(db, run.run_id, "answer")
    await runner.take()
    assert isinstance(await park(db, run, "answer"), Refused)
    assert await status_of(db, run.run_id) is RunStatus.RUNNING


async def test_a_parked_run_keeps_its_ordering_key(db: Database) -> None:
    runner = await opened(db)
    first = await running(db, runner, ordering_key="k")
    await park(db, first, "answer")
    (second,) = await admitted(db, invocation(ordering_key="k"), on=runner.idle())
    assert second.lease is None
    assert await runner.take() == []
    await send(db, first.run_id, "answer")
    (lease,) = await runner.take(2)
    assert lease.run_id == first.run_id
    await finish(db, lease)
    assert [lease.run_id for lease in await runner.take()] == [second.run_id]
    assert await contradictions(db) == []


async def test_the_platform_delivers_within_a_transaction_also_to_a_full_mailbox(db: Database) -> None:
    runner = await opened(db)
    run = await parked(db, runner, "child:1")
    await execute(db, "UPDATE run_state SET mail_waiting = 5000 WHERE run_id = $1", run.run_id)
    for repeated in (False, True):
        async with db.transaction() as connection:
            await lock_tenants(connection, ["acme"])
            told = await deliver(
                connection, "acme", run.run_id, key="child:1", payload=b"{}", signal_id="child:1"
            )
        assert (told.repeated, told.pools) == (repeated, [] if repeated else ["count@1"])
    assert await status_of(db, run.run_id) is RunStatus.QUEUED


async def test_many_waits_of_one_tenant_that_are_over_at_once_do_not_keep_another_s_waiting(
    db: Database,
) -> None:
    runner = await opened(db)
    quiet = await running(db, runner, tenant="quiet")
    await park(db, quiet, seconds=DAY)
    for tenant, tenants, count, due in (
        ("noisy-", 1, 20 * ROUND, "- interval '1 h'"),
        ("other-", 600, 600, "+ interval '1 h'"),
    ):
        await execute(
            db,
            f"""INSERT INTO timer (run_id, kind, due_time, tenant)
                SELECT gen_random_uuid(), 3, clock_timestamp() {due}, $1 || n % $2
                FROM generate_series(1, $3) n""",
            tenant,
            tenants,
            count,
        )
    await time_comes(db, quiet.run_id)
    after = ""
    for _ in range(1 + 602 // LOOKED_AT):
        after = (await wake_due(db, after=after)).after
        if await status_of(db, quiet.run_id) is RunStatus.QUEUED:
            break
    assert await status_of(db, quiet.run_id) is RunStatus.QUEUED


async def test_what_is_due_is_woken_without_a_pause_whoever_else_has_waits(db: Database) -> None:
    runner = await opened(db)
    for _ in range(3 * SHARE):
        await parked(db, runner, seconds=0.001)
    await execute(
        db,
        """INSERT INTO timer (run_id, kind, due_time, tenant)
           SELECT gen_random_uuid(), 3, clock_timestamp() + interval '1 h', 'a-' || n
           FROM generate_series(1, 900) n""",
    )
    after, woken = "", []
    for _ in range(3):
        round_ = await wake_due(db, after=after, limit=SHARE)
        after = round_.after
        woken.append(round_.count)
    assert all(woken), "a round that wakes nothing lets the loop pause"
