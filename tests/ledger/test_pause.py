"""A paused run is executed by nobody until it is resumed; what comes meanwhile is not lost."""

import asyncio
import uuid

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import RunEnded, RunNotFound
from holdfast.ledger.asked import asked_of
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Compensate, Park, Record, Requeue, Stored, Undo
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.domain.undo import UndoOn
from holdfast.ledger.due import fire
from holdfast.ledger.due_wake import wake_due
from holdfast.ledger.inspect import get
from holdfast.ledger.mailbox import signal
from holdfast.ledger.pause import pause, resume
from holdfast.ledger.retry import retry
from holdfast.ledger.session import serves
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import Failure, Leased, Limits
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    finish,
    invocation,
    open_ledger,
    opened,
    status_of,
)


async def resumed(db: Database, run_id: uuid.UUID) -> None:
    """Resume a run, and let the ledger see that it is due."""
    await resume(db, "acme", run_id)
    await fire(db)
    assert await contradictions(db) == []


async def running(db: Database, runner: Runner, **more: object) -> Leased:
    (run,) = await admitted(db, invocation(**more), on=runner.idle())
    assert run.lease
    return run.lease


async def move(db: Database, run: Leased, what: Park | Requeue) -> None:
    item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=what)
    assert isinstance((await commit_group(db, [item]))[0], Stored)


async def test_a_queued_run_is_held_and_goes_on_in_its_place(db: Database) -> None:
    runner = await opened(db)
    first, second = await admitted(db, invocation(), invocation())
    await pause(db, "acme", first.run_id, "look at it")
    await pause(db, "acme", first.run_id, "again")
    assert await contradictions(db) == []
    async with db.connection() as connection:
        assert (await get(connection, "acme", first.run_id)).paused == "look at it"
    (run,) = await runner.take(5)
    assert run.run_id == second.run_id
    await fire(db)
    assert await runner.take(5) == []
    await resumed(db, first.run_id)
    await resumed(db, first.run_id)
    (run,) = await runner.take(5)
    assert (run.run_id, run.attempt) == (first.run_id, 1)


async def test_a_delay_of_its_own_is_kept(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await move(db, run, Requeue(Failure("E", "e"), delay=30.0))
    await pause(db, "acme", run.run_id)
    await resumed(db, run.run_id)
    assert await runner.take() == []
    await execute(
        db, "UPDATE timer SET due_time = now() WHERE kind = 2 AND due_time < now() + interval '31 s'"
    )
    await fire(db)
    assert len(await runner.take()) == 1


@pytest.mark.parametrize("by", ["signal", "time"])
async def test_what_a_parked_run_waits_for_is_kept_when_it_comes(db: Database, by: str) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await move(db, run, Park(("input",), 60.0))
    await pause(db, "acme", run.run_id)
    assert await status_of(db, run.run_id) is RunStatus.PARKED
    if by == "signal":
        await signal(db, "acme", run.run_id, key="input", payload=b"1")
    else:
        await execute(db, "UPDATE timer SET due_time = now() - interval '1 s' WHERE kind = 3")
        await wake_due(db)
    assert await status_of(db, run.run_id) is RunStatus.QUEUED
    assert await contradictions(db) == []
    assert await runner.take() == []
    await resumed(db, run.run_id)
    (again,) = await runner.take()
    assert again.mail_last == (1 if by == "signal" else 0)


async def test_a_run_paused_and_resumed_while_it_is_parked_sleeps_on(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await move(db, run, Park(("input",)))
    await pause(db, "acme", run.run_id)
    await resumed(db, run.run_id)
    assert await status_of(db, run.run_id) is RunStatus.PARKED
    await signal(db, "acme", run.run_id, key="input", payload=b"1")
    assert len(await runner.take()) == 1


@pytest.mark.parametrize("back", ["handed back", "lost", "parked on what is there"])
async def test_a_running_run_stays_away_once_its_runner_has_given_it_back(db: Database, back: str) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    paused = await pause(db, "acme", run.run_id)
    assert paused.holder
    assert (paused.holder.session_id, paused.holder.epoch) == (runner.session_id, run.epoch)
    async with db.connection() as connection:
        (asked,) = await asked_of(connection, [runner.session_id])
    assert (asked.run_id, asked.epoch, asked.cancel) == (run.run_id, run.epoch, None)
    if back == "handed back":
        await move(db, run, Requeue(blameless=True))
    elif back == "lost":
        await runner.expire()
        await sweep(db)
        await runner.open()
    else:
        await move(db, run, Park((), 0.0))
    assert await contradictions(db) == []
    assert await runner.take() == []
    await resumed(db, run.run_id)
    (again,) = await runner.take()
    assert again.attempt == (2 if back == "lost" else 1)


async def test_a_paused_run_holds_its_key_and_a_run_behind_it_can_be_paused_too(db: Database) -> None:
    runner = await opened(db)
    first, second = await admitted(db, invocation(ordering_key="k"), invocation(ordering_key="k"))
    await pause(db, "acme", first.run_id)
    await pause(db, "acme", second.run_id)
    assert await contradictions(db) == []
    assert await runner.take(5) == []
    await resumed(db, second.run_id)
    assert await runner.take(5) == []
    await pause(db, "acme", second.run_id)
    await resumed(db, first.run_id)
    (run,) = await runner.take(5)
    assert run.run_id == first.run_id
    await finish(db, run)
    assert await runner.take(5) == []
    await resumed(db, second.run_id)
    (run,) = await runner.take(5)
    assert run.run_id == second.run_id


async def test_its_deadline_goes_on_counting(db: Database) -> None:
    (run,) = await admitted(db, invocation(limits=Limits(deadline_ms=1)))
    await pause(db, "acme", run.run_id)
    await asyncio.sleep(0.05)
    await fire(db)
    assert await status_of(db, run.run_id) is RunStatus.PARTIAL
    assert await contradictions(db) == []
    with pytest.raises(RunEnded):
        await resume(db, "acme", run.run_id)
    with pytest.raises(RunEnded):
        await pause(db, "acme", run.run_id)
    await retry(db, "acme", run.run_id, Limits(deadline_ms=60_000))
    assert len(await (await opened(db)).take()) == 1, "who starts it again means that it shall go on"


async def test_a_paused_run_can_be_cancelled_and_is_undone_then(db: Database) -> None:
    runner = await opened(db)
    plain = await running(db, runner)
    await move(db, plain, Requeue(blameless=True))
    run = await running(db, runner)
    undo = Undo(UndoOn.FAILURE | UndoOn.CANCEL, 60_000)
    await commit_group(db, [CommitItem(run.run_id, run.epoch, 1, [Record("hold", b"intent")], undo=undo)])
    await commit_group(db, [CommitItem(run.run_id, run.epoch, 2, move=Requeue(blameless=True))])
    for run_id in (plain.run_id, run.run_id):
        await pause(db, "acme", run_id)
        await cancel(db, "acme", run_id)
    assert await contradictions(db) == []
    assert await status_of(db, plain.run_id) is RunStatus.CANCELLED
    (again,) = await runner.take(5)
    assert again.undoing


async def test_a_run_paused_while_it_fails_is_undone_when_it_is_resumed(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    undo = Undo(UndoOn.FAILURE, 60_000)
    await commit_group(db, [CommitItem(run.run_id, run.epoch, 1, [Record("hold", b"intent")], undo=undo)])
    await pause(db, "acme", run.run_id)
    await commit_group(db, [CommitItem(run.run_id, run.epoch, 2, move=Compensate(Failure("E", "e")))])
    assert await contradictions(db) == []
    assert await runner.take() == []
    await resumed(db, run.run_id)
    (again,) = await runner.take()
    assert again.undoing


async def test_a_pause_races_a_claim_and_the_counts_are_right(db: Database) -> None:
    runner = await opened(db)
    for _ in range(20):
        (run,) = await admitted(db, invocation())
        paused, taken = await asyncio.gather(pause(db, "acme", run.run_id), runner.take())
        assert (paused.status is RunStatus.RUNNING) == bool(taken)
        assert await contradictions(db) == []
        for lease in taken:
            await move(db, lease, Requeue(blameless=True))
        assert await runner.take() == []
        await asyncio.gather(resume(db, "acme", run.run_id), fire(db), pause(db, "acme", run.run_id))
        await resumed(db, run.run_id)
        (lease,) = await runner.take()
        await finish(db, lease)


async def test_another_tenants_run_is_not_found(db: Database) -> None:
    (run,) = await admitted(db, invocation())
    for tenant, run_id in (("umbrella", run.run_id), ("acme", uuid.uuid4())):
        with pytest.raises(RunNotFound):
            await pause(db, tenant, run_id)
        with pytest.raises(RunNotFound):
            await resume(db, tenant, run_id)


async def test_the_invoker_may_pause_and_resume(db: Database, database_url: str) -> None:
    (run,) = await admitted(db, invocation())
    async with open_ledger(database_url, role_name="holdfast_invoker") as invoker:
        await pause(invoker, "acme", run.run_id)
        await resume(invoker, "acme", run.run_id)
        await fire(invoker)
        async with invoker.connection() as connection:
            assert await asked_of(connection, [uuid.uuid4()]) == []


async def test_it_is_known_whether_anybody_serves_a_pool(db: Database) -> None:
    runner = await opened(db)
    async with db.connection() as connection:
        assert await serves(connection, "count")
        assert await serves(connection, "count@1")
        assert not await serves(connection, "count@2")
        assert not await serves(connection, "other")
    await runner.expire()
    async with db.connection() as connection:
        assert not await serves(connection, "count")
