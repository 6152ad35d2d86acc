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
