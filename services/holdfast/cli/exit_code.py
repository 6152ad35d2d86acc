"""What an exit code means, in one place; `holdfast --help` says the same."""

from typing import Final

from holdfast.client import HoldfastError, Run, RunStatus
from holdfast.client.errors import DeadlineExceeded, Unavailable

OK: Final = 0
UNWELL: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNAVAILABLE: Final = 4
PARTIAL: Final = 5
RUNNING: Final = 6
INTERRUPTED: Final = 130


def of_error(error: HoldfastError) -> int:
    """Return the code of a call that did not succeed."""
    return UNAVAILABLE if isinstance(error, Unavailable | DeadlineExceeded) else REFUSED


def of_run(run: Run) -> int:
    """Return the code of a run as it stands; one that has not ended is no failure."""
    return of_status(run.status)


def of_awaited(run: Run) -> int:
    """Return the code of a run whose end was waited for; one that has not ended in time is told apart."""
    return of_run(run) if run.is_ended else RUNNING


def of_status(status: RunStatus) -> int:
    """Return the code of a run's status."""
    if not status.is_ended or status is RunStatus.SUCCEEDED:
        return OK
    return PARTIAL if status is RunStatus.PARTIAL else UNWELL
