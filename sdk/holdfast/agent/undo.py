"""Which ends of a run have its steps undone, how long that may take, and what is to be undone so far."""

from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar, get_args

from holdfast.agent.step import Step

R = TypeVar("R")

UndoOn = Literal["failure", "cancel", "exhausted"]

ENDS: Final[tuple[UndoOn, ...]] = get_args(UndoOn)
UNDO_KEY: Final = "!undo/"
"""Before the key of a step: the key of its undo."""
DAY: Final = 24 * 3600.0
LONGEST: Final = 31 * DAY
"""Seconds that undoing may take."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Which ends of a run have its steps undone, and how many seconds that may take."""

    on: tuple[UndoOn, ...]
    within: float

    @classmethod
    def of(cls, undo_on: Iterable[str], within: float | timedelta) -> "Terms":
        """Read what an author says. Raises ValueError."""
        named = {undo_on} if isinstance(undo_on, str) else set(undo_on)
        if not named or not named <= set(ENDS):
            said = ", ".join(sorted(named)) or "nothing"
            raise ValueError(f"Steps are undone on {', '.join(ENDS)}, not on {said}.")
        seconds = within.total_seconds() if isinstance(within, timedelta) else float(within)
        if not 0 < seconds <= LONGEST:
            raise ValueError(f"Undoing takes above 0 seconds, at most 31 days, not {seconds:g} s.")
        return cls(tuple(each for each in ENDS if each in named), seconds)


@dataclass(slots=True)
class Undoable:
    """A use of a step that has an undo: with what it was called, and what came of it as far as is known."""

    step: Step[..., Any]
    named: dict[str, Any]
    result: Any = None


@dataclass(slots=True)
class Undos:
    """What of a run would be undone, and on which ends."""

    terms: Terms
    keys: dict[str, None]
    """The steps that have an undo and may have taken effect, in the order they were begun."""
    used: dict[str, Undoable] = field(default_factory=dict)
    """Those that the agent has asked for here."""

    async def noting(
        self, key: str, step: Step[..., R], named: dict[str, Any], performing: Coroutine[Any, Any, R]
    ) -> R:
        """Note a use of a step that has an undo, and what came of it."""
        used = self.used[key] = Undoable(step, named)
        used.result = result = await performing
        return result

    def called_for(self, end: UndoOn) -> bool:
        """Say whether an end has anything undone."""
        return bool(self.keys) and end in self.terms.on
