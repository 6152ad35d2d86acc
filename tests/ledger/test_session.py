"""A session lives by its heartbeat; when it ends, its leases are freed once and its runs go on elsewhere."""

import asyncio
import uuid

from holdfast.kit.db import Database
from holdfast.kit.errors import Fenced
from holdfast.ledger import session
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit_value import Refused, Requeue
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.inspect import get, known_intents, transcript
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import LeaseRef
from tests.support.ledger import (
    Runner,
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


async def beat(db: Database, *runners: Runner, invoker_id: uuid.UUID | None = None) -> set[uuid.UUID]:
    async with db.connection() as connection:
        return await session.heartbeat(
            connection, invoker_id or runners[0].invoker_id, [r.session_id for r in runners], ttl_s=60
        )


async def test_a_session_opened_again_keeps_its_leases_and_is_told_of_them(db: Database) -> None:
    await admitted(db, invocation(), invocation())
    runner = await opened(db)
    taken = await runner.take(2)
    assert {run.run_id for run in await runner.open()} == {run.run_id for run in taken}


async def test_opening_a_session_makes_its_intents_known(db: Database) -> None:
    await opened(db)
    async with db.connection() as connection:
        assert await known_intents(connection) == {"count"}


async def test_a_heartbeat_keeps_a_session_alive(db: Database) -> None:
    runner = Runner(db)
    await runner.open(ttl_s=0.0)
    assert await beat(db, runner) == set()
    await admitted(db, invocation())
    assert len(await runner.take()) == 1
    assert (await sweep(db)).count == 0


async def test_a_heartbeat_names_sessions_that_are_gone_or_anothers(db: Database) -> None:
    alive, swept, moved = await opened(db), await opened(db), await opened(db)
    for runner in (swept, moved):
        runner.invoker_id = alive.invoker_id
        await runner.open()
    await swept.expire()
    await sweep(db)
    moved.invoker_id = uuid.uuid4()
    await moved.open()
    gone = await beat(db, alive, swept, moved, invoker_id=alive.invoker_id)
    assert gone == {swept.session_id, moved.session_id}


async def test_a_broken_stream_ends_a_session_after_its_grace_unless_it_comes_back(db: Database) -> None:
    runner, other = await opened(db), await opened(db)
    await admitted(db, invocation(), invocation())
    for each in (runner, other):
        await each.take()
        async with db.connection() as connection:
            await session.expire_soon(connection, each.invoker_id, each.session_id, grace_s=0)
    await other.open()
    moved = await sweep(db)
    assert len(moved.requeued) == 1
    assert await contradictions(db) == []


async def test_a_swept_run_goes_on_elsewhere_before_those_that_came_later(db: Database) -> None:
    (first,) = await admitted(db, invocation())
    lost = await opened(db)
    (run,) = await lost.take()
    await admitted(db, invocation())
    await lost.expire()
    moved = await sweep(db)
    assert (moved.requeued, moved.pools) == ([first.run_id], ["count@1"])
    other = await opened(db)
    again = {r.run_id: r for r in await other.take(2)}[first.run_id]
    assert (again.attempt, again.epoch > run.epoch) == (2, True)
    late = await finish(db, run)
    assert isinstance(late, Refused)
    assert isinstance(late.fault, Fenced)
    assert await contradictions(db) == []


async def test_a_run_whose_runners_all_die_ends_in_the_dead_letters(db: Database) -> None:
    await admitted(db, invocation(max_attempts=2))
    first, last = await opened(db), await opened(db)
    await first.take()
    await first.expire()
    await sweep(db)
    (run,) = await last.take()
    await last.expire()
    assert (await sweep(db)).dead_lettered == [run.run_id]
    async with db.connection() as connection:
        view = await get(connection, "acme", run.run_id)
    assert view.status is RunStatus.DEAD_LETTERED
    assert view.outcome is not None
    assert view.outcome.failure is not None
    assert view.outcome.failure.reason == "RUNNER_LOST"


async def test_a_run_to_be_cancelled_is_not_tried_again(db: Database) -> None:
    await admitted(db, invocation())
    runner = await opened(db)
    (run,) = await runner.take()
    await cancel(db, "acme", run.run_id, "no longer needed")
    await runner.expire()
    assert (await sweep(db)).ended == [run.run_id]
    async with db.connection() as connection:
        view = await get(connection, "acme", run.run_id)
    assert view.status is RunStatus.CANCELLED
    assert view.outcome
    assert view.outcome.failure
    assert view.outcome.failure.message == "no longer needed"


async def test_many_sweeps_at_once_free_each_lease_once(db: Database) -> None:
    await admitted(db, *(invocation(tenant=f"t{n % 5}") for n in range(60)))
    runners = [await opened(db) for _ in range(6)]
    for runner in runners:
        await runner.take(10)
        await runner.expire()
    moved = await asyncio.gather(*(sweep(db, limit=7) for _ in range(20)))
    while (more := await sweep(db, limit=7)).count:
        moved.append(more)
    freed = [run for each in moved for run in each.requeued]
    assert len(freed) == len(set(freed)) == 60
    assert await contradictions(db) == []
    assert await fetch(db, "SELECT * FROM runner_session") == []


async def test_no_lease_is_left_to_a_session_swept_while_it_claims(db: Database) -> None:
    for _ in range(15):
        await admitted(db, *(invocation() for _ in range(3)))
        runner = await opened(db)

        async def end(runner: Runner = runner) -> None:
            await runner.expire()
            await sweep(db)

        await asyncio.gather(runner.take(3), end())
        await sweep(db)
        assert await contradictions(db) == []
    assert await fetch(db, "SELECT * FROM lease") == []


async def test_a_run_handed_back_has_its_attempt_again(db: Database) -> None:
    await admitted(db, invocation(max_attempts=1))
    runner = await opened(db)
    (run,) = await runner.take()
    moved = await session.hand_back(db, runner.session_id, [LeaseRef(run.run_id, run.epoch)])
    assert moved.requeued == [run.run_id]
    (again,) = await runner.take()
    assert again.attempt == 1
    assert await contradictions(db) == []


async def test_handing_back_what_one_does_not_hold_changes_nothing(db: Database) -> None:
    await admitted(db, invocation())
    runner, other = await opened(db), await opened(db)
    (run,) = await runner.take()
    for thief, epoch in ((other, run.epoch), (runner, run.epoch + 1)):
        assert (await session.hand_back(db, thief.session_id, [LeaseRef(run.run_id, epoch)])).count == 0
    assert await status_of(db, run.run_id) is RunStatus.RUNNING
    await session.hand_back(db, runner.session_id, [LeaseRef(run.run_id, run.epoch)])
    assert (await session.hand_back(db, runner.session_id, [LeaseRef(run.run_id, run.epoch)])).count == 0


async def test_leases_whose_answer_was_lost_are_found_by_asking(db: Database) -> None:
    await admitted(db, invocation(envelope=b"whole"))
    runner = await opened(db)
    (run,) = await runner.take()
    async with db.connection() as connection:
        (found,) = await session.held(connection, [runner.session_id])
    assert (found.run_id, found.epoch, found.attempt, found.envelope) == (run.run_id, 1, 1, b"whole")


async def test_the_stream_of_a_lost_run_tells_of_it(db: Database) -> None:
    (first,) = await admitted(db, invocation())
    runner = await opened(db)
    await runner.take()
    await runner.expire()
    await sweep(db)
    async with db.connection() as connection:
        rows = await transcript(connection, "acme", first.run_id)
    assert [(row.first_sequence, (row.note or {})["kind"]) for row in rows] == [
        (1, "accepted"),
        (2, "requeued"),
    ]
    assert (rows[1].note or {})["failure"]["reason"] == "RUNNER_LOST"  # type: ignore[index]


async def test_a_cap_is_lifted_when_leases_are_freed(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, max_in_flight) VALUES ('acme', 1)")
    await admitted(db, invocation(), invocation())
    runner = await opened(db)
    (run,) = await runner.take(2)
    await give_up(db, run, Requeue())
    assert await contradictions(db) == []
    assert len(await runner.take(2)) == 1
    await runner.expire()
    await sweep(db)
    assert await contradictions(db) == []
