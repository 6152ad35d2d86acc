"""A run that calls for it has its steps undone before it ends, once, whoever would end it first."""

import asyncio
import uuid
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import RunNotRetryable
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import (
    CommitItem,
    CommitResult,
    Compensate,
    Move,
    Park,
    Record,
    Refused,
    Requeue,
    Stored,
    Undo,
)
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.domain.undo import UndoOn
from holdfast.ledger.due import fire
from holdfast.ledger.inspect import get, transcript
from holdfast.ledger.mailbox import signal
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.retry import retry
from holdfast.ledger.session import hand_back
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import Failure, Leased, LeaseRef, Limits, Outcome
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    invocation,
    open_ledger,
    opened,
    status_of,
)

CAUSE = Failure("Denied", "no", "review", 1)
EVERY = UndoOn.FAILURE | UndoOn.CANCEL | UndoOn.EXHAUSTED
HOUR_MS = 3_600_000


async def begun(db: Database, runner: Runner, on: UndoOn = EVERY, **more: Any) -> Leased:
    """Lease a run and record the intent of a step with an undo."""
    placed = None if more.get("ordering_key") else runner.idle()
    (run,) = await admitted(db, invocation(**more), on=placed)
    lease = run.lease or (await runner.take())[0]
    intent = CommitItem(run.run_id, lease.epoch, 1, [Record("hold", b"intent")], undo=Undo(on, HOUR_MS))
    assert await commit_group(db, [intent]) == [Stored(RunStatus.RUNNING, cancel_requested=False)]
    return lease


async def commit(db: Database, run: Leased, number: int, move: Move | None, **more: Any) -> CommitResult:
    return (await commit_group(db, [CommitItem(run.run_id, run.epoch, number, move=move, **more)]))[0]


async def undoing(db: Database, run_id: uuid.UUID) -> Failure | None:
    async with db.connection() as connection:
        return (await get(connection, "acme", run_id)).undoing


async def leased_again(db: Database, runner: Runner) -> Leased:
    (run,) = await runner.take()
    assert await status_of(db, run.run_id) is RunStatus.COMPENSATING
    assert await contradictions(db) == []
    return run


async def overdue(db: Database, run_id: uuid.UUID, *, late: bool = False) -> None:
    await execute(
        db,
        """WITH over AS (
               UPDATE run_state SET deadline_time = clock_timestamp() - make_interval(secs => $2)
               WHERE run_id = $1 RETURNING run_id, deadline_time
           )
           UPDATE timer t SET due_time = over.deadline_time FROM over
           WHERE t.run_id = over.run_id AND t.kind = 1""",
        run_id,
        10 if late else 0,
    )


async def test_a_run_is_leased_again_to_undo_its_steps_and_then_ends(db: Database) -> None:
    runner = await opened(db)
    run = await begun(db, runner, limits=Limits(deadline_ms=5_000, max_steps=4))
    assert await commit(db, run, 2, Compensate(CAUSE), charge=Charge(steps=3)) == Stored(
        RunStatus.QUEUED, cancel_requested=False
    )
    again = await leased_again(db, runner)
    assert (again.undoing, again.attempt, again.usage.steps, again.limits.max_steps) == (CAUSE, 1, 3, 7)
    assert again.limits.deadline_ms == HOUR_MS
    assert 3_599 < again.remaining_s <= 3_600
    (due,) = await fetch(db, "SELECT due_time - now() > interval '59 min' AS far FROM timer WHERE kind = 1")
    assert due["far"]
    undone = [Record("!undo/hold", b"undone")]
    assert await commit(db, again, 3, None, records=undone, charge=Charge(steps=1)) == Stored(
        RunStatus.COMPENSATING, cancel_requested=False
    )
    assert await commit(db, again, 4, Outcome(RunStatus.COMPENSATED, failure=CAUSE)) == Stored(
        RunStatus.COMPENSATED, cancel_requested=False
    )
    assert await undoing(db, run.run_id) == CAUSE
    assert await contradictions(db) == []
    with pytest.raises(RunNotRetryable):
        await retry(db, "acme", run.run_id)
    async with db.connection() as connection:
        rows = await transcript(connection, "acme", run.run_id, after_sequence=0, limit=9)
    kinds = [row.note["kind"] for row in rows if row.note]
    assert kinds[:2] == ["accepted", "compensating"]


async def test_its_key_is_held_until_it_has_been_undone(db: Database) -> None:
    runner = await opened(db)
    run = await begun(db, runner, ordering_key="k")
    await admitted(db, invocation(ordering_key="k"))
    await commit(db, run, 2, Compensate(CAUSE))
    again = await leased_again(db, runner)
    assert again.run_id == run.run_id
    assert await runner.take() == []
    await commit(db, again, 3, Outcome(RunStatus.COMPENSATED, failure=CAUSE))
    assert len(await runner.take()) == 1


@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.PARTIAL, RunStatus.CANCELLED])
async def test_a_run_that_is_undone_ends_in_no_other_way(db: Database, status: RunStatus) -> None:
    runner = await opened(db)
    run = await begun(db, runner)
    answer = await commit(db, run, 2, Outcome(RunStatus.COMPENSATED, failure=CAUSE))
    assert isinstance(answer, Refused)
    assert answer.fault.reason == "INVALID_FIELD"
    await commit(db, run, 2, Compensate(CAUSE))
    again = await leased_again(db, runner)
    for move in (Outcome(status), Park(("x",)), Compensate(CAUSE)):
        answer = await commit(db, again, 3, move)
        assert isinstance(answer, Refused)
        assert not answer.retryable
    assert await status_of(db, run.run_id) is RunStatus.COMPENSATING
    assert isinstance(await commit(db, again, 3, Outcome(RunStatus.COMPENSATED, failure=CAUSE)), Stored)


async def test_a_run_without_such_a_step_is_not_undone_and_others_of_the_group_are_stored(
    db: Database,
) -> None:
    runner = await opened(db)
    (plain,) = await admitted(db, invocation(), on=runner.idle())
    assert plain.lease
    run = await begun(db, runner)
    answers = await commit_group(
        db,
        [
            CommitItem(plain.run_id, 1, 1, move=Compensate(CAUSE)),
            CommitItem(run.run_id, 1, 2, move=Compensate(CAUSE)),
        ],
    )
    assert isinstance(answers[0], Refused)
    assert answers[0].fault.facts["run_id"] == str(plain.run_id)
    assert answers[1] == Stored(RunStatus.QUEUED, cancel_requested=False)
    assert await status_of(db, plain.run_id) is RunStatus.RUNNING
    assert await contradictions(db) == []


@pytest.mark.parametrize("on", [UndoOn.FAILURE, UndoOn.CANCEL])
@pytest.mark.parametrize("lost", [False, True])
async def test_the_last_attempt_goes_to_the_dead_letters_or_is_undone(
    db: Database, *, on: UndoOn, lost: bool
) -> None:
    runner = await opened(db)
    run = await begun(db, runner, on, max_attempts=1)
    if lost:
        await runner.expire()
        await sweep(db)
        await runner.open()
    else:
        await commit(db, run, 2, Requeue(CAUSE, delay=0.0))
    if on is UndoOn.CANCEL:
        assert await status_of(db, run.run_id) is RunStatus.DEAD_LETTERED
        return
    again = await leased_again(db, runner)
    assert again.undoing
    assert again.undoing.reason == ("RUNNER_LOST" if lost else "Denied")
    assert again.attempt == 1, "the phase has attempts of its own"
    await commit(db, again, again.last_commit + 1, Requeue(CAUSE, delay=0.0))
    assert await status_of(db, run.run_id) is RunStatus.DEAD_LETTERED
    assert await contradictions(db) == []


@pytest.mark.parametrize("where", ["queued", "parked", "running", "handed back", "lost"])
@pytest.mark.parametrize("on", [UndoOn.FAILURE, UndoOn.CANCEL])
async def test_a_cancelled_run_is_undone_if_that_was_asked_for(db: Database, where: str, on: UndoOn) -> None:
    runner = await opened(db)
    run = await begun(db, runner, on)
    if where == "queued":
        await commit(db, run, 2, Requeue(CAUSE, delay=60.0))
    if where == "parked":
        await commit(db, run, 2, Park(("never",), 60.0))
    asked = await cancel(db, "acme", run.run_id, "enough")
    if where == "running":
        move = Compensate(CAUSE) if on is UndoOn.CANCEL else Outcome(RunStatus.CANCELLED)
        await commit(db, run, 2, move)
    if where == "handed back":
        await hand_back(db, runner.session_id, [LeaseRef(run.run_id, run.epoch)])
    if where == "lost":
        await runner.expire()
        await sweep(db)
        await runner.open()
    assert await contradictions(db) == []
    if on is UndoOn.FAILURE:
        assert await status_of(db, run.run_id) is RunStatus.CANCELLED
        return
    if where in {"queued", "parked"}:
        assert (asked.status, asked.moved.pools) == (RunStatus.QUEUED, ["count@1"])
    again = await leased_again(db, runner)
    assert not again.cancel_requested
    twice = await cancel(db, "acme", run.run_id)
    assert (twice.status, twice.holder) == (RunStatus.COMPENSATING, None)
    await finish(db, again, RunStatus.COMPENSATED)
    assert await contradictions(db) == []


@pytest.mark.parametrize("where", ["queued", "parked", "leased too long"])
@pytest.mark.parametrize("on", [UndoOn.FAILURE, UndoOn.EXHAUSTED])
async def test_a_run_whose_time_is_over_is_undone_if_that_was_asked_for(
    db: Database, where: str, on: UndoOn
) -> None:
    runner = await opened(db)
    run = await begun(db, runner, on)
    if where == "queued":
        await commit(db, run, 2, Requeue(CAUSE, delay=60.0))
    if where == "parked":
        await commit(db, run, 2, Park(("never",), 60.0))
    await overdue(db, run.run_id, late=True)
    fired = await fire(db)
    assert bool(fired.revoked) == (where == "leased too long")
    assert await contradictions(db) == []
    if on is UndoOn.FAILURE:
        assert await status_of(db, run.run_id) is RunStatus.PARTIAL
        return
    again = await leased_again(db, runner)
    assert again.undoing
    assert again.undoing.reason == "BUDGET_EXHAUSTED"
    answer = await commit(db, run, run.last_commit + 2, Outcome(RunStatus.SUCCEEDED))
    assert isinstance(answer, Refused), "the runner that was late is fenced"
    await overdue(db, run.run_id)
    await commit(db, again, again.last_commit + 1, Requeue(CAUSE, delay=60.0))
    await fire(db)
    async with db.connection() as connection:
        ended = await get(connection, "acme", run.run_id)
    assert ended.status is RunStatus.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.reason == "COMPENSATION_FAILED"
    assert await contradictions(db) == []


async def test_what_could_not_be_undone_is_tried_again_when_a_person_says_so(db: Database) -> None:
    runner = await opened(db)
    run = await begun(db, runner)
    await commit(db, run, 2, Compensate(CAUSE))
    again = await leased_again(db, runner)
    await commit(db, again, 3, Outcome(RunStatus.FAILED, failure=Failure("COMPENSATION_FAILED", "x")))
    await retry(db, "acme", run.run_id)
    third = await leased_again(db, runner)
    assert third.undoing == CAUSE
    assert third.remaining_s > 3_500


async def test_children_that_go_with_a_run_are_asked_to_stop_when_its_undoing_begins(db: Database) -> None:
    runner = await opened(db)
    run = await begun(db, runner)
    (child,) = await admitted(db, invocation())
    await execute(db, "UPDATE run_state SET parent_run_id = $1 WHERE run_id = $2", run.run_id, child.run_id)
    await execute(
        db,
        """INSERT INTO child (run_id, tenant, parent_run_id, lender, on_parent_end, lent_steps, lent_tools,
                              lent_tokens) VALUES ($2, 'acme', $1, $1, 1, 0, 0, 0)""",
        run.run_id,
        child.run_id,
    )
    await commit(db, run, 2, Compensate(CAUSE))
    await cancel_orphans(db)
    assert await status_of(db, child.run_id) is RunStatus.CANCELLED


async def test_the_services_may_do_what_the_phase_needs(db: Database, database_url: str) -> None:
    runner = await opened(db)
    runs = [await begun(db, runner) for _ in range(4)]
    await commit(db, runs[1], 2, Park(("never",), 60.0))
    await overdue(db, runs[2].run_id, late=True)
    async with (
        open_ledger(database_url, role_name="holdfast_checkpoint") as checkpoint,
        open_ledger(database_url, role_name="holdfast_invoker") as invoker,
    ):
        await commit(checkpoint, runs[0], 2, Compensate(CAUSE))
        await cancel(invoker, "acme", runs[1].run_id)
        await fire(invoker)
        await commit(checkpoint, runs[3], 2, Requeue(CAUSE))
        await hand_back(invoker, runner.session_id, [])
        runner.db = invoker
        again = await runner.take(4)
        assert [run.undoing is not None for run in again if run.run_id != runs[3].run_id] == [True] * 3
        for run in again[:3]:
            await commit(checkpoint, run, run.last_commit + 1, Outcome(RunStatus.FAILED, failure=CAUSE))
        await retry(invoker, "acme", again[0].run_id)
    assert await contradictions(db) == []


async def test_a_run_is_not_handed_off_while_it_is_undone(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(handoff=Limits(deadline_ms=9_000)))
    (lease,) = await runner.take()
    intent = CommitItem(run.run_id, lease.epoch, 1, [Record("hold", b"intent")], undo=Undo(EVERY, HOUR_MS))
    await commit_group(db, [intent])
    await commit(db, lease, 2, Compensate(CAUSE))
    again = await leased_again(db, runner)
    assert isinstance(await commit(db, again, 3, None, handoff=True), Refused)
    assert isinstance(await commit(db, again, 3, Outcome(RunStatus.COMPENSATED, failure=CAUSE)), Stored)


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_would_end_it_first_the_run_is_undone_once(db: Database, seed: int) -> None:
    """Its runner, a person, its deadline and a signal at once: one phase, one cause, one lease of it."""
    runner = await opened(db)
    run = await begun(db, runner)
    if seed % 2:
        await commit(db, run, 2, Park(("input",), 60.0))
    await overdue(db, run.run_id, late=True)

    async def told() -> None:
        await signal(db, "acme", run.run_id, key="input", payload=b"1")

    racers = [commit(db, run, 2, Compensate(CAUSE)), cancel(db, "acme", run.run_id), fire(db), told()]
    await asyncio.gather(*racers[seed % 4 :], *racers[: seed % 4])
    again = await leased_again(db, runner)
    assert again.undoing
    assert await runner.take() == []
    (counted,) = await fetch(db, "SELECT count(*) AS n FROM transcript WHERE note->>'kind' = 'compensating'")
    assert counted["n"] == 1
    await finish(db, again, RunStatus.COMPENSATED)
    assert await contradictions(db) == []
