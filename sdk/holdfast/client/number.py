"""Enumerations of the contract: the same numbers, names without their prefix."""

from enum import IntEnum
from typing import Self


class Number(IntEnum):
    """A number of the contract; one that this release does not know reads as UNSPECIFIED."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        del value
        return cls(0)

    def __str__(self) -> str:
        return self.name


class RunStatus(Number):
    """Where a run stands."""

    UNSPECIFIED = 0
    QUEUED = 1
    RUNNING = 2
    PARKED = 3
    COMPENSATING = 4
    SUCCEEDED = 5
    PARTIAL = 6
    FAILED = 7
    CANCELLED = 8
    COMPENSATED = 9
    DEAD_LETTERED = 10
    DRIFTED = 11

    @property
    def is_ended(self) -> bool:
        """Tell whether nothing more will happen, unless somebody retries the run."""
        return self >= RunStatus.SUCCEEDED


class Shape(Number):
    """How a run is triggered and waited for."""

    UNSPECIFIED = 0
    SERVICE = 1
    WORKER = 2
    WORKFLOW = 3
    BATCH = 4


class BudgetDimension(Number):
    """One of the five limits of a budget."""

    UNSPECIFIED = 0
    DEADLINE = 1
    STEPS = 2
    TOOLS = 3
    TOKENS = 4
    CONTEXT = 5


class OnDisconnect(Number):
    """What happens to a run when the client that started it on a stream leaves."""

    UNSPECIFIED = 0
    CONTINUE = 1
    CANCEL = 2


class StepKind(Number):
    """What a step is."""

    UNSPECIFIED = 0
    FUNCTION = 1
    MODEL = 2
    TOOL = 3
    WAIT = 4


class ApprovalStatus(Number):
    """Where an approval stands."""

    UNSPECIFIED = 0
    PENDING = 1
    APPROVED = 2
    DENIED = 3
    TIMED_OUT = 4
    CANCELLED = 5


class EffectStatus(Number):
    """Where an effect stands."""

    UNSPECIFIED = 0
    PENDING = 1
    SENDING = 2
    DELIVERED = 3
    DEAD_LETTERED = 4
    DISCARDED = 5


class DeliveryMode(Number):
    """What a destination is promised when the outcome of a call is unknown."""

    UNSPECIFIED = 0
    AT_LEAST_ONCE = 1
    AT_MOST_ONCE = 2
    CONFIRM = 3


class BreakerState(Number):
    """Whether a destination is being called."""

    UNSPECIFIED = 0
    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


class OverlapPolicy(Number):
    """What happens when a schedule falls due while what it started last has not ended."""

    UNSPECIFIED = 0
    SKIP = 1
    QUEUE = 2
    CANCEL_OLDER = 3


class FireOrigin(Number):
    """Why a schedule fired."""

    UNSPECIFIED = 0
    DUE = 1
    CATCH_UP = 2
    TRIGGER = 3
    BACKFILL = 4


class FireResult(Number):
    """What came of one time of a schedule."""

    UNSPECIFIED = 0
    STARTED = 1
    QUEUED = 2
    SKIPPED_OVERLAP = 3
    SKIPPED_MISSED = 4
    FAILED = 5
