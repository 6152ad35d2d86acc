"""What is given to a run in the lab, and what the world does to it meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from holdfast.agent.budget import Limits
from holdfast.agent.testing.script import Script

AMPLE: Final = Limits(
    deadline=366 * 24 * 3600.0, steps=10_000, tools=10_000, tokens=10_000_000, context=1_000_000
)
"""More than a test should need; a year to wait."""
BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When a lab's time begins."""
INPUT: Final = "input"
INTERRUPT: Final = "interrupt"


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal sent `at` so many seconds after the run was accepted; an urgent one interrupts."""

    payload: Any
    key: str = INPUT
    at: float = 0.0
    urgent: bool = False


def interrupt(payload: Any, *, at: float) -> Signal:
    """Interrupt the run at a time, in seconds after it was accepted."""
    return Signal(payload, INTERRUPT, at, urgent=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a gate is decided, `after` so many seconds; a `payload` of None leaves it as it was asked."""

    status: str
    by: tuple[str, ...] = ()
    reason: str = ""
    payload: Any = None
    after: float = 0.0


def approve(*, by: str = "somebody", reason: str = "", payload: Any = None, after: float = 0.0) -> Verdict:
    """Approve a gate, with an edited payload if one is given."""
    return Verdict("APPROVED", (by,), reason, payload, after)


def deny(*, by: str = "somebody", reason: str = "", after: float = 0.0) -> Verdict:
    """Deny a gate."""
    return Verdict("DENIED", (by,), reason, None, after)


@dataclass(frozen=True, slots=True)
class Kill:
    """The death of the runner at a commit, counted from 1: before it lands, or once it has.

    After it has landed, the runner dies before it hears of that.
    """

    commit: int
    landed: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.landed else 'before'} commit {self.commit}"


class Conditions(TypedDict, total=False):
    """What may be said about a run beside its intent and payload; `Scene` says what it means."""

    model: Script | Mapping[str, Script] | None
    signals: Sequence[Signal]
    answers: Mapping[str, Sequence[Any]]
    decisions: Mapping[str, Verdict | Sequence[Verdict]]
    cancel_at: float | None
    limits: Limits
    handoff: Limits | None
    session: Mapping[str, Any] | None
    max_attempts: int
    labels: Mapping[str, str]
    user: str
    children: Mapping[str, "Conditions"]


GIVEN: Final = ("limits", "handoff", "session", "labels", "user")
"""What children have from their parents, or not at all."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A run and its world."""

    intent: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    model: Script | Mapping[str, Script] | None = None
    """What the model answers; several by name, best first."""
    signals: Sequence[Signal] = ()
    answers: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """By mailbox key, the payloads sent one by one, each as soon as the agent waits for it."""
    decisions: Mapping[str, Verdict | Sequence[Verdict]] = field(default_factory=dict)
    """By the name of a gate, how it is decided; without, it times out."""
    cancel_at: float | None = None
    """Seconds after which somebody asks to cancel the run."""
    limits: Limits = AMPLE
    handoff: Limits | None = None
    """The budget in the background, if the run may move there."""
    session: Mapping[str, Any] | None = None
    """What its session holds; None for a run without one."""
    max_attempts: int = 5
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    children: Mapping[str, Conditions] = field(default_factory=dict)
    """By intent, the conditions under which its children run, and theirs, unless those say otherwise.

    Each child hears its script from the beginning.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for conditions that are not for a test to set."""
        for intent, conditions in self.children.items():
            given = [name for name in GIVEN if name in conditions]
            if given:
                raise ValueError(f"Which {given[0]} children of {intent} have is for their parents to say.")
            Scene(intent, children=conditions.get("children", {}))

    @property
    def intents(self) -> set[str]:
        """The intents of which anything is said."""
        below = (Scene(intent, **conditions).intents for intent, conditions in self.children.items())
        return {self.intent}.union(*below)
