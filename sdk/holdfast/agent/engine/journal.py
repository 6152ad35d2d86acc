"""The seam between the engine and whoever makes its commits durable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from holdfast.agent.wire.draft import Commit, Event


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit is durable."""

    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A commit is not durable and never will be; `reason` is the name of an `ErrorReason`."""

    reason: str
    message: str


Answer = Committed | Refused


class Journal(Protocol):
    """Takes the commits and events of one run."""

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Make a commit durable and call `answered` once, later or at once, on the same thread.

        The engine has at most one commit of a run under way. Trouble that passes (a lost connection, a
        database away) is the journal's to wait out: a commit repeated under the same number lands once.
        """

    def happened(self, event: Event) -> None:
        """Take note of an event, durable or not yet; called in order, and must not change it."""
