"""What falls due is done once: deadlines end runs, delays make them ready."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from holdfast.kit.db import Database
from holdfast.ledger.commit_value import Refused, Requeue
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.due import fire
from holdfast.ledger.inspect import get, transcript
from holdfast.ledger.values import LeaseRef, Limits
from tests.support.ledger import (
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    give_up,
    invocation,
    opened,
    status_of,
)

AT_ONCE = Limits(deadline_ms=1)


async def delays_pass(db: Database, run_id: UUID) -> None:
    await execute(db, "UPDATE timer SET due_time = now() WHERE run_id = $1 AND kind = 2", run_id)


async def test_a_run_that_waits_ends_at_its_deadline_naming_it(db: Database) -> None:
    (run,) = await admitted(db, invocation(limits=AT_ONCE))
    fired = await fire(db)
    assert fired.moved.ended == [run.run_id]
    async with db.connection() as connection:
        view = await get(connection, "acme", run.run_id)
        notes = [row.note or {} for row in await transcript(connection, "acme", run.run_id)]
    assert view.status is RunStatus.PARTIAL
    assert view.outcome
    assert view.outcome.exhausted is Dimension.DEADLINE
    assert [note["kind"] for note in notes] == ["accepted", "ended"]
    assert await contradictions(db) == []


async def test_a_runner_has_a_grace_to_end_its_run_itself(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(limits=AT_ONCE), on=runner.idle())
    assert run.lease
    assert (await fire(db)).moved.count == 0
    assert (await fire(db)).fired == 0  # postponed, not asked again and again
    await finish(db, run.lease, RunStatus.PARTIAL)
    assert await contradictions(db) == []


async def test_a_runner_that_does_not_end_its_run_loses_it(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(limits=AT_ONCE), on=runner.idle())
    assert run.lease
    fired = await fire(db, grace_s=0)
    assert fired.revoked == [(runner.session_id, LeaseRef(run.run_id, 1))]
    assert await status_of(db, run.run_id) is RunStatus.PARTIAL
    assert isinstance(await finish(db, run.lease), Refused)
    assert await contradictions(db) == []


async def test_a_delayed_run_is_taken_only_after_its_time(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(not_before=datetime.now(UTC) + timedelta(hours=1)))
    assert await runner.take() == []
    await delays_pass(db, run.run_id)
    fired = await fire(db)
    assert fired.moved.pools == ["count"]
    assert await contradictions(db) == []
    assert len(await runner.take()) == 1


async def test_a_failed_attempt_waits_as_long_as_it_asked(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.lease
    await give_up(db, run.lease, Requeue(delay=3600))
    assert await runner.take() == []
    await delays_pass(db, run.run_id)
    await fire(db)
    (again,) = await runner.take()
    assert again.attempt == 2


async def test_a_delayed_run_does_not_let_those_of_its_key_pass(db: Database) -> None:
    first, second = await admitted(
        db,
        invocation(ordering_key="k", not_before=datetime.now(UTC) + timedelta(hours=1)),
        invocation(ordering_key="k"),
    )
    runner = await opened(db)
    assert await runner.take(5) == []
    await delays_pass(db, first.run_id)
    await fire(db)
    (run,) = await runner.take(5)
    assert run.run_id == first.run_id
    await finish(db, run)
    (run,) = await runner.take(5)
    assert run.run_id == second.run_id


@pytest.mark.parametrize("delay_first", [True, False])
async def test_a_run_both_delayed_and_blocked_waits_for_both(db: Database, *, delay_first: bool) -> None:
    holder, run = await admitted(
        db,
        invocation(ordering_key="k"),
        invocation(ordering_key="k", not_before=datetime.now(UTC) + timedelta(hours=1)),
    )
    runner = await opened(db)
    (leased,) = await runner.take(5)
    assert leased.run_id == holder.run_id

    async def delay() -> None:
        await delays_pass(db, run.run_id)
        await fire(db)

    async def lane() -> None:
        await finish(db, leased)

    for wait in (delay, lane) if delay_first else (lane, delay):
        assert await runner.take(5) == []
        await wait()
        assert await contradictions(db) == []
    (last,) = await runner.take(5)
    assert last.run_id == run.run_id


async def test_many_processes_fire_a_timer_once(db: Database) -> None:
    runs = await admitted(db, *(invocation(limits=AT_ONCE, tenant=f"t{n % 4}") for n in range(40)))
    fired = await asyncio.gather(*(fire(db, limit=15) for _ in range(12)))
    while (more := await fire(db, limit=15)).fired:
        fired.append(more)
    ended = [run_id for each in fired for run_id in each.moved.ended]
    assert sorted(ended) == sorted(run.run_id for run in runs)
    assert await contradictions(db) == []
    assert await fetch(db, "SELECT * FROM timer") == []
