"""The capability of the run that a task works for: whatever the task asks for that run, it shows it."""

from contextvars import ContextVar

from holdfast.kit.auth.capability import HEADER
from holdfast.kit.auth.proof import Metadata


class LeaseCapability:
    """What the Invoker gave last for one lease; empty without identity."""

    __slots__ = ("text",)

    def __init__(self, text: str = "") -> None:
        self.text = text


_mine: ContextVar[LeaseCapability | None] = ContextVar("holdfast_lease_capability", default=None)


def work_for(capability: LeaseCapability) -> None:
    """Take this task, and those it starts, for ones that work for a run."""
    _mine.set(capability)


def shown() -> Metadata:
    """Return what goes with a call for the run that this task works for."""
    mine = _mine.get()
    return ((HEADER, mine.text),) if mine is not None and mine.text else ()
