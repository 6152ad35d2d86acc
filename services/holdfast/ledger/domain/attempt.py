"""What becomes of a run whose attempt ended without an end: another attempt, a rest, or the dead letters."""

from dataclasses import dataclass

from holdfast.ledger.domain.status import RunStatus

RUNNER_LOST = "RUNNER_LOST"
"""The reason of an attempt whose runner fell silent."""


@dataclass(frozen=True, slots=True)
class Next:
    """Where the run goes, and the attempts it then counts."""

    status: RunStatus
    attempt: int


def after_failed_attempt(attempt: int, max_attempts: int, *, cancel_requested: bool) -> Next:
    """Decide after an attempt that failed or whose runner was lost.

    Someone who asked to cancel gets just that: the run ends, whatever attempts are left.
    """
    if cancel_requested:
        return Next(RunStatus.CANCELLED, attempt)
    if attempt >= max_attempts:
        return Next(RunStatus.DEAD_LETTERED, attempt)
    return Next(RunStatus.QUEUED, attempt)


def after_hand_back(attempt: int, *, cancel_requested: bool) -> Next:
    """Decide after a runner gave the run back unharmed, as at a drain: the attempt is not counted."""
    if cancel_requested:
        return Next(RunStatus.CANCELLED, attempt)
    return Next(RunStatus.QUEUED, max(0, attempt - 1))


def after_park(attempt: int, *, cancel_requested: bool, called: bool) -> Next:
    """Decide when a run wants to wait; it is `called` if what it waits for is there already.

    The attempt is not counted: a run may wait as often as it likes.
    """
    after = after_hand_back(attempt, cancel_requested=cancel_requested)
    if after.status is RunStatus.QUEUED and not called:
        return Next(RunStatus.PARKED, after.attempt)
    return after
