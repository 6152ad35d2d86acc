"""One use of a step, described before it is known whether it is executed or replayed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.agent.engine.scope import Frame
from holdfast.agent.step import Policy


class Recordable(Protocol):
    """How a step's outcome is recorded and read back: `codec.Shape`, or one that knows its type better."""

    def record(self, value: Any) -> tuple[bytes, Any]:
        """Return the JSON of a value, and the value as a replay will see it."""

    def read(self, encoded: bytes) -> Any:
        """Return the value of a record."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a step waits for: a signal under one of the keys, or a time.

    `timeout` is in seconds, `until` in seconds of Unix time by the ledger's clock; with neither it takes a
    signal to end it.
    """

    keys: tuple[str, ...] = ()
    timeout: float | None = None
    until: float | None = None

    def seconds(self, now: float) -> float | None:
        """Return how long it waits from now on, None for as long as it takes."""
        return max(0.0, self.until - now) if self.until is not None else self.timeout


@dataclass(slots=True)
class Call:
    """One use of a step: what is asked, how it is executed, what it may need."""

    name: str
    kind: int
    input: dict[str, Any]
    policy: Policy
    result: Recordable
    execute: Callable[[str, Frame], Awaitable[Any]]
    reads: int = 0
    writes: int = 0
    """Tokens it may write if the budget has them; a call without costs none."""
    allowed: int = 0
    """How many of them it may write in this try."""
    prepare: Callable[[str], Awaitable[None]] | None = None
    """Called with the step's key before it is executed, not before it is replayed."""
    tells_result: Callable[[Frame, bytes], None] | None = None
    wait: Wait | None = None
    """The step only waits: the run may rest meanwhile."""
    undoable: bool = False
    """It has an undo: that it begins is durable before it is executed."""
    undoes: bool = False
    """It is an undo: its failure is told and not recorded, so that a retry of the run tries it again."""
