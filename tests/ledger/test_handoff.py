"""A run's own commit moves it to the background, once, under the budget that its caller allows."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import BudgetExceeded, Fenced, InvalidField
from holdfast.ledger import history, inspect, retry
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Happened, Record, Refused, Requeue, Stored
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.due import fire
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import Failure, Leased, Limits, Outcome, RunView
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    give_up,
    invocation,
    open_ledger,
    opened,
)

BACKGROUND = Limits(deadline_ms=3_600_000, max_steps=5)
NARROW = Limits(deadline_ms=30_000, max_steps=1, max_tools=3, max_tokens=100, max_context=50)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_ledger(database_url) as db:
        yield db
        assert await contradictions(db) == []


@pytest.fixture
async def runner(db: Database) -> Runner:
    return await opened(db)


async def leased(db: Database, runner: Runner, handoff: Limits | None = BACKGROUND) -> Leased:
    await admitted(db, invocation(limits=NARROW, handoff=handoff))
    (run,) = await runner.take()
    return run


async def hand_off(db: Database, run: Leased, number: int = 1) -> Stored | Refused:
    happened = Happened(run.last_sequence + 1, run.last_sequence + 1, b"batch")
    item = CommitItem(run.run_id, run.epoch, number, happened=happened, handoff=True)
    (answer,) = await commit_group(db, [item])
    return answer


async def view(db: Database, run: Leased) -> RunView:
    async with db.connection() as connection:
        return await inspect.get(connection, "acme", run.run_id)


async def test_limits_deadline_and_timer_are_new_and_what_was_left_out_stays(
    db: Database, runner: Runner
) -> None:
    run = await leased(db, runner)
    before = await view(db, run)
    assert (before.handed_off, before.shape) == (False, 1)
    assert await hand_off(db, run) == Stored(RunStatus.RUNNING, cancel_requested=False)
    after = await view(db, run)
    assert (after.handed_off, after.shape, after.status) == (True, 2, RunStatus.RUNNING)
    assert after.limits == Limits(3_600_000, 5, 3, 100, 50)
    assert after.last_sequence == before.last_sequence + 1
    ahead = after.deadline_time - after.now
    assert timedelta(seconds=3_590) < ahead <= timedelta(seconds=3_600)
    (timer,) = await fetch(db, "SELECT due_time FROM timer WHERE run_id = $1", run.run_id)
    assert timer["due_time"] == after.deadline_time
    steps = [Record(f"k{n}", b"record") for n in range(5)]
    (answer,) = await commit_group(
        db, [CommitItem(run.run_id, run.epoch, 2, records=steps, charge=Charge(steps=5))]
    )
    assert isinstance(answer, Stored)


async def test_the_limits_of_before_hold_for_the_commit_that_moves(db: Database, runner: Runner) -> None:
    run = await leased(db, runner)
    item = CommitItem(run.run_id, run.epoch, 1, charge=Charge(steps=2), handoff=True)
    (answer,) = await commit_group(db, [item])
    assert isinstance(answer, Refused)
    assert isinstance(answer.fault, BudgetExceeded)
    assert not (await view(db, run)).handed_off


async def test_it_is_done_once_and_told_again(db: Database, runner: Runner) -> None:
    run = await leased(db, runner)
    for _ in range(2):
        assert isinstance(await hand_off(db, run), Stored)
    first = await view(db, run)
    (again,) = await commit_group(db, [CommitItem(run.run_id, run.epoch, 2, handoff=True)])
    assert isinstance(again, Refused)
    assert isinstance(again.fault, InvalidField)
    assert [wrong.field for wrong in again.fault.violations] == ["handoff"]
    assert (await view(db, run)).deadline_time == first.deadline_time


async def test_a_runner_cannot_take_what_the_caller_does_not_allow(db: Database, runner: Runner) -> None:
    run = await leased(db, runner, handoff=None)
    answer = await hand_off(db, run)
    assert isinstance(answer, Refused)
    assert isinstance(answer.fault, InvalidField)
    seen = await view(db, run)
    assert (seen.handed_off, seen.limits, seen.last_sequence) == (False, NARROW, run.last_sequence)


async def test_a_zombie_moves_nothing(db: Database, runner: Runner) -> None:
    run = await leased(db, runner)
    await runner.expire()
    await sweep(db)
    answer = await hand_off(db, run)
    assert isinstance(answer, Refused)
    assert isinstance(answer.fault, Fenced)
    (heir,) = await (await opened(db)).take()
    assert not (await history.beginning(db, heir.run_id, heir.epoch)).handed_off
    assert isinstance(await hand_off(db, heir), Stored)


async def test_the_next_attempt_goes_on_in_the_background(db: Database, runner: Runner) -> None:
    run = await leased(db, runner)
    await hand_off(db, run)
    await give_up(db, _after(run), Requeue(Failure("BROKEN")))
    (again,) = await runner.take()
    assert again.limits == Limits(3_600_000, 5, 3, 100, 50)
    assert 3_590 < again.remaining_s <= 3_600
    assert (await history.beginning(db, again.run_id, again.epoch)).handed_off
    await finish(db, again, RunStatus.FAILED)
    await retry.retry(db, "acme", run.run_id)
    (retried,) = await runner.take()
    assert (await history.beginning(db, retried.run_id, retried.epoch)).handed_off


async def test_the_old_deadline_ends_nothing_and_the_new_one_does(db: Database, runner: Runner) -> None:
    run = await leased(db, runner)
    await execute(db, "UPDATE run_state SET deadline_time = now() - interval '1 s'")
    await execute(db, "UPDATE timer SET due_time = now() - interval '1 s'")
    await fire(db)  # postponed, for its runner may still end it
    await hand_off(db, run)
    assert (await fire(db)).fired == 0
    assert (await view(db, run)).status is RunStatus.RUNNING
    await execute(db, "UPDATE run_state SET deadline_time = now() - interval '1 h'")
    await execute(db, "UPDATE timer SET due_time = now() - interval '1 h'")
    assert (await fire(db)).moved.ended == [run.run_id]


async def test_a_run_may_be_handed_off_by_the_commit_that_ends_it(db: Database, runner: Runner) -> None:
    run = await leased(db, runner)
    item = CommitItem(run.run_id, run.epoch, 1, move=Outcome(RunStatus.SUCCEEDED), handoff=True)
    (answer,) = await commit_group(db, [item])
    assert isinstance(answer, Stored)
    seen = await view(db, run)
    assert (seen.status, seen.handed_off) == (RunStatus.SUCCEEDED, True)


async def test_one_that_may_not_hinders_no_other_of_its_group(db: Database, runner: Runner) -> None:
    runs = [await leased(db, runner, handoff) for handoff in (BACKGROUND, None, BACKGROUND)]
    items = [CommitItem(run.run_id, run.epoch, 1, handoff=True) for run in runs]
    answers = await commit_group(db, items)
    assert [isinstance(answer, Stored) for answer in answers] == [True, False, True]


def _after(run: Leased) -> Leased:
    return replace(run, last_commit=run.last_commit + 1)
