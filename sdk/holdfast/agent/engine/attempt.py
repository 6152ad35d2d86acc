"""What the stepper knows of a step between its being asked for and its record."""

from dataclasses import dataclass
from typing import Any

from holdfast.agent.budget import Usage
from holdfast.agent.engine.scope import Frame
from holdfast.agent.wire.draft import Record


@dataclass(slots=True)
class Asked:
    """What identifies the use of a step, and as much of its input as is kept."""

    fingerprint: bytes
    input: bytes
    begun: bool = False
    """An earlier lease has begun it."""


@dataclass(slots=True)
class Done:
    """A step that has succeeded and is not recorded yet."""

    value: Any
    record: Record
    frame: Frame
    usage: Usage


@dataclass(slots=True)
class Failed:
    """A try that has failed: which it was, as it is told, and what all tries have cost."""

    error: Exception
    tries: int
    told_as: int
    usage: Usage
    took: float


@dataclass(slots=True)
class Tries:
    """How often a step was tried so far, what that has cost, and the last try's place and duration."""

    usage: Usage
    frame: Frame
    count: int = 0
    took: float = 0.0
    kept: int = 0
    """Tokens of failed tries, set aside until the step is settled."""
