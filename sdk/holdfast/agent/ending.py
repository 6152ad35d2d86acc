"""Decides where a run goes when its agent returned, failed or was stopped: pure, to be asked twice."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from holdfast.agent.app import Agent
from holdfast.agent.backoff import pause
from holdfast.agent.codec import plain
from holdfast.agent.error import (
    LONGEST_MESSAGE,
    BudgetExhausted,
    CommitRefused,
    Drifted,
    Failure,
    HandedBack,
    NotRecordable,
    Parked,
    Permanent,
    RunCancelled,
    RunStopped,
    StepFailed,
    failure_of,
    storable,
)
from holdfast.agent.session import Session
from holdfast.agent.undo import UndoOn, Undos
from holdfast.agent.wire.draft import CANCELLED, DRIFTED, FAILED, PARTIAL, SUCCEEDED, Outcome, SessionWrite
from holdfast.agent.wire.invocation import Invocation, read_failure

LARGEST_RESULT: Final = 1024 * 1024
"""Bytes of a result as the contract has it, where a number takes more than in JSON."""


@dataclass(frozen=True, slots=True)
class Move:
    """Where the run goes: to its end, back to the queue, or to its rest if `parked` says what wakes it.

    `session` is what an end leaves in the session; `survived` if the agent went on after every failure of a
    step so far; `failure` why the attempt has failed, if it has.
    """

    outcome: Outcome | None = None
    session: SessionWrite | None = None
    survived: bool = False
    failure: Failure | None = None
    delay: float = 0.0
    blameless: bool = False
    parked: Parked | None = None
    compensate: Failure | None = None
    """Why its steps are to be undone before it ends."""


_ENDS: Final[dict[int, UndoOn]] = {FAILED: "failure", CANCELLED: "cancel", PARTIAL: "exhausted"}


def decide(
    agent: Agent,
    invocation: Invocation,
    stopped: RunStopped | None,
    *,
    value: Any,
    error: BaseException | None,
    session: Session,
) -> Move:
    """Decide by what stopped the run first, then by what the agent returned or raised."""
    if isinstance(stopped, BudgetExhausted):
        return _partial(stopped, value, session)
    if stopped is not None and not isinstance(stopped, HandedBack | Parked):
        return _stopped(stopped)
    if error is None:
        return _succeeded(agent, value, session)
    if isinstance(stopped, Parked):
        return Move(parked=stopped, survived=True)
    if stopped is not None:
        return Move(blameless=True, survived=True)
    return _failed(agent, invocation, error)


def undone_first(move: Move, undos: Undos) -> Move:
    """Return the move to undoing where this one is to an end that has steps undone."""
    end = None if move.outcome is None else _ENDS.get(move.outcome.message.status)
    if move.outcome is None or end is None or not undos.called_for(end):
        return move
    cause = read_failure(move.outcome.message.failure)
    return Move(compensate=cause, failure=move.failure, survived=True)


def failed(failure: Failure, status: int = FAILED) -> Move:
    """Return the move to the end of a run whose attempt has failed for good."""
    return Move(Outcome(status, failure=failure), failure=failure)


def _stopped(stopped: RunStopped) -> Move:
    message = storable(str(stopped), LONGEST_MESSAGE)
    if isinstance(stopped, RunCancelled):
        return Move(Outcome(CANCELLED, failure=Failure("CANCELLED", message)))
    if isinstance(stopped, Drifted):
        return failed(Failure("DRIFTED", message, stopped.step), DRIFTED)
    reason = stopped.reason if isinstance(stopped, CommitRefused) else "STOPPED"
    return failed(Failure(reason, message))


def _succeeded(agent: Agent, value: Any, session: Session) -> Move:
    what = "result"
    try:
        outcome = _checked(Outcome(SUCCEEDED, result=from_json(agent.result.record(value)[0])))
        what = "session"
        return Move(outcome, session.to_save(), survived=True)
    except NotRecordable as error:
        message = storable(f"the agent's {what} cannot be recorded: {error}", LONGEST_MESSAGE)
        return failed(Failure(error.reason, message))


def _partial(stopped: BudgetExhausted, value: Any, session: Session) -> Move:
    reason, exhausted, why = "BUDGET_EXHAUSTED", stopped.dimension, str(stopped)
    left = None
    try:
        left = session.to_save()
    except NotRecordable as error:
        why = f"{why}; what it would leave in its session is lost: {error}"
    try:
        result = plain(value)  # what was managed need not be what was promised
        failure = Failure(reason, storable(why, LONGEST_MESSAGE))
        outcome = _checked(Outcome(PARTIAL, result=result, failure=failure, exhausted=exhausted))
    except NotRecordable as error:
        failure = Failure(reason, storable(f"{why}; its result is lost: {error}", LONGEST_MESSAGE))
        outcome = Outcome(PARTIAL, failure=failure, exhausted=exhausted)
    return Move(outcome, left, survived=True)


def _failed(agent: Agent, invocation: Invocation, error: BaseException) -> Move:
    failure = failure_of(error)
    if isinstance(error, Permanent) and not (isinstance(error, StepFailed) and not error.permanent):
        return failed(failure)
    if agent.max_attempts is not None and invocation.attempt >= agent.max_attempts:
        return failed(failure)
    return Move(failure=failure, delay=pause(invocation.attempt))


def _checked(outcome: Outcome) -> Outcome:
    if outcome.size > LARGEST_RESULT:
        raise NotRecordable(f"it takes {outcome.size:,} bytes, and {LARGEST_RESULT:,} are the most")
    return outcome
