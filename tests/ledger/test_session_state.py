"""A session's runs execute one at a time and hand its state on; nobody else writes it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import Fenced, InvalidField, SessionConflict, SessionInUse, SessionNotFound
from holdfast.ledger import cancel, history, retry, session_state
from holdfast.ledger.admission import admit
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Refused, Requeue, SessionWrite, Stored
from holdfast.ledger.domain.lane import SESSION, lane_of, session_of
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import Admitted, Failure, Leased, Limits, Outcome
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    finish,
    give_up,
    invocation,
    open_ledger,
    opened,
    status_of,
)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_ledger(database_url) as db:
        yield db
        assert await contradictions(db) == []


@pytest.fixture
async def runner(db: Database) -> Runner:
    return await opened(db)


async def found(db: Database, run: Leased) -> tuple[bytes, int]:
    """Return what a run finds in its session."""
    session = (await history.beginning(db, run.run_id, run.epoch)).session
    assert session is not None
    return session.state, session.version


async def saved(db: Database, session_id: str = "s", tenant: str = "acme") -> tuple[bytes, int]:
    """Return what people see of a session."""
    async with db.connection() as connection:
        view = await session_state.get(connection, tenant, session_id)
    return view.state, view.version


async def leave(db: Database, run: Leased, state: bytes, status: RunStatus = RunStatus.SUCCEEDED) -> None:
    """End a run that found what there is, and leave something."""
    _, version = await found(db, run)
    assert isinstance(await finish(db, run, status, SessionWrite(state, version)), Stored)


def test_no_ordering_key_of_a_caller_is_a_session_s_lane() -> None:
    assert lane_of("k", "") == "k"
    assert session_of(lane_of("", "k")) == "k"
    assert session_of(lane_of("k", "")) == ""
    assert lane_of("", "k") == f"{SESSION}k" != lane_of("k", "")


async def test_runs_of_a_session_are_leased_one_at_a_time_in_order(db: Database, runner: Runner) -> None:
    made = await admitted(db, *(invocation(session_id="s") for _ in range(3)), on=runner.idle(3))
    assert [one.lease is not None for one in made] == [True, False, False]
    first = made[0].lease
    assert first is not None
    assert await runner.take(5) == []
    await leave(db, first, b'"first"')
    (second,) = await runner.take(5)
    assert (second.run_id, await found(db, second)) == (made[1].run_id, (b'"first"', 1))
    await leave(db, second, b'"second"')
    (third,) = await runner.take(5)
    assert (third.run_id, await found(db, third)) == (made[2].run_id, (b'"second"', 2))
    assert await saved(db) == (b'"second"', 2)


async def test_a_session_and_an_ordering_key_of_one_name_do_not_wait_for_each_other(
    db: Database, runner: Runner
) -> None:
    await admitted(db, invocation(session_id="s"), invocation(ordering_key="s"), invocation())
    taken = await runner.take(5)
    assert len(taken) == 3
    assert [(await history.beginning(db, run.run_id, run.epoch)).session is None for run in taken] == [
        False, True, True
    ]  # fmt: skip


async def test_a_session_of_another_tenant_is_another(db: Database, runner: Runner) -> None:
    await admitted(db, invocation(session_id="s"), invocation(session_id="s", tenant="umbrella"))
    ours, theirs = sorted(await runner.take(5), key=lambda run: run.tenant)
    await leave(db, ours, b'"ours"')
    assert await found(db, theirs) == (b"", 0)
    with pytest.raises(SessionNotFound):
        await saved(db, tenant="umbrella")
    with pytest.raises(SessionNotFound):
        await session_state.forget(db, "nobody", "s")
    await leave(db, theirs, b'"theirs"')
    assert (await saved(db), await saved(db, tenant="umbrella")) == ((b'"ours"', 1), (b'"theirs"', 1))


async def test_the_next_attempt_finds_what_the_first_one_found(db: Database, runner: Runner) -> None:
    await admitted(db, *(invocation(session_id="s") for _ in range(3)))
    (before,) = await runner.take(5)
    await leave(db, before, b'"before"')
    (first,) = await runner.take(5)
    await give_up(db, first, Requeue(Failure("BROKEN")))
    (again,) = await runner.take(5)
    assert (again.run_id, await found(db, again)) == (first.run_id, (b'"before"', 1))
    await runner.expire()
    await sweep(db)
    (third,) = await (await opened(db)).take(5)
    assert (third.run_id, await found(db, third)) == (first.run_id, (b'"before"', 1))
    with pytest.raises(Fenced):
        await found(db, again)


async def test_what_a_zombie_leaves_is_fenced(db: Database, runner: Runner) -> None:
    await admitted(db, invocation(session_id="s"))
    (zombie,) = await runner.take()
    await runner.expire()
    await sweep(db)
    (heir,) = await (await opened(db)).take()
    answer = await finish(db, zombie, session=SessionWrite(b'"of a zombie"', 0))
    assert isinstance(answer, Refused)
    assert isinstance(answer.fault, Fenced)
    await leave(db, heir, b'"of its heir"')
    assert await saved(db) == (b'"of its heir"', 1)


@pytest.mark.parametrize("how", ["cancelled while it runs", "cancelled while it waits", "dead-lettered"])
async def test_a_run_that_ends_otherwise_leaves_nothing_and_lets_the_next_one_go(
    db: Database, runner: Runner, how: str
) -> None:
    first, second = await admitted(db, *(invocation(session_id="s", max_attempts=1) for _ in range(2)))
    if how == "cancelled while it waits":
        await cancel.cancel(db, "acme", first.run_id)
    else:
        (run,) = await runner.take(5)
        if how == "dead-lettered":
            await give_up(db, run, Requeue(Failure("BROKEN")))
            assert await status_of(db, first.run_id) is RunStatus.DEAD_LETTERED
        else:
            await finish(db, run, RunStatus.CANCELLED)
    (next_one,) = await runner.take(5)
    assert (next_one.run_id, await found(db, next_one)) == (second.run_id, (b"", 0))
    with pytest.raises(SessionNotFound):
        await saved(db)


async def test_a_repeated_end_saves_once(db: Database, runner: Runner) -> None:
    await admitted(db, invocation(session_id="s"))
    (run,) = await runner.take()
    for _ in range(2):
        assert isinstance(await finish(db, run, session=SessionWrite(b"1", 0)), Stored)
    assert await saved(db) == (b"1", 1)


@pytest.mark.parametrize("loaded", [0, 2, 7])
async def test_an_end_with_another_version_than_the_session_s_is_refused_whole(
    db: Database, runner: Runner, loaded: int
) -> None:
    await admitted(db, *(invocation(session_id="s") for _ in range(2)))
    (first,) = await runner.take()
    await leave(db, first, b"1")
    (second,) = await runner.take()
    answer = await finish(db, second, session=SessionWrite(b"2", loaded))
    assert isinstance(answer, Refused)
    assert isinstance(answer.fault, SessionConflict)
    assert not answer.retryable
    assert await status_of(db, second.run_id) is RunStatus.RUNNING
    assert await saved(db) == (b"1", 1)
    await finish(db, second)


async def test_a_run_without_a_session_cannot_save_one(db: Database, runner: Runner) -> None:
    await admitted(db, invocation(ordering_key="s"))
    (run,) = await runner.take()
    answer = await finish(db, run, session=SessionWrite(b"1", 0))
    assert isinstance(answer, Refused)
    assert isinstance(answer.fault, InvalidField)
    assert [wrong.field for wrong in answer.fault.violations] == ["session"]
    await finish(db, run)


async def test_a_retried_partial_run_starts_from_before_its_own_writing(db: Database, runner: Runner) -> None:
    await admitted(db, *(invocation(session_id="s") for _ in range(2)))
    (first,) = await runner.take()
    await leave(db, first, b"1")
    (second,) = await runner.take()
    await leave(db, second, b"2", RunStatus.PARTIAL)
    assert await saved(db) == (b"2", 2)
    for version in (2, 3):
        await retry.retry(db, "acme", second.run_id, Limits(deadline_ms=60_000))
        (again,) = await runner.take()
        assert await found(db, again) == (b"1", version)
        await leave(db, again, b"3", RunStatus.PARTIAL)
    await admitted(db, invocation(session_id="s"))
    (other,) = await runner.take()
    await leave(db, other, b"4")
    await retry.retry(db, "acme", second.run_id)
    (late,) = await runner.take()
    assert await found(db, late) == (b"4", 5)
    await leave(db, late, b"5")


async def test_a_session_is_forgotten_only_between_its_runs(db: Database, runner: Runner) -> None:
    first, second = await admitted(db, *(invocation(session_id="s") for _ in range(2)))
    for holder in (first, second):
        with pytest.raises(SessionInUse) as caught:
            await session_state.forget(db, "acme", "s")
        assert caught.value.facts["run_id"] == str(holder.run_id)
        (run,) = await runner.take()
        await leave(db, run, b"1" if run.run_id == first.run_id else b"2")
    await session_state.forget(db, "acme", "s")
    with pytest.raises(SessionNotFound):
        await session_state.forget(db, "acme", "s")
    await admitted(db, invocation(session_id="s"))
    (anew,) = await runner.take()
    assert await found(db, anew) == (b"", 0)
    await leave(db, anew, b'"anew"')
    assert await saved(db) == (b'"anew"', 1)


async def test_forgetting_races_admission_and_one_of_the_two_is_first(db: Database, runner: Runner) -> None:
    await admitted(db, invocation(session_id="s"))
    (run,) = await runner.take()
    await leave(db, run, b"1")
    forgotten, (made,) = await asyncio.gather(_forgotten(db), admit(db, [invocation(session_id="s")]))
    assert isinstance(made, Admitted)
    (next_one,) = await runner.take()
    assert await found(db, next_one) == ((b"", 0) if forgotten else (b"1", 1))


async def _forgotten(db: Database) -> bool:
    try:
        await session_state.forget(db, "acme", "s")
    except SessionInUse:
        return False
    return True


async def test_a_conflict_refuses_no_other_commit_of_its_group(db: Database, runner: Runner) -> None:
    await admitted(db, *(invocation(session_id=f"s{n}") for n in range(4)))
    runs = await runner.take(5)
    items = [
        CommitItem(
            run.run_id,
            run.epoch,
            1,
            move=Outcome(RunStatus.SUCCEEDED),
            session=SessionWrite(b"1", 5 if n == 2 else 0),
        )
        for n, run in enumerate(runs)
    ]
    answers = await commit_group(db, items)
    assert [isinstance(answer, Stored) for answer in answers] == [True, True, False, True]
    assert [await status_of(db, run.run_id) for run in runs].count(RunStatus.SUCCEEDED) == 3
