"""Whether a signal may enter a run's mailbox, and how urgent it is there."""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from holdfast.ledger.domain.status import ENDED, RunStatus

MAX_WAITING: Final = 1000
"""Signals that wait in one mailbox."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes that wait in one mailbox."""
INPUT: Final = "input"
"""The key of what the agent's input policy speaks of."""
INTERRUPT: Final = "interrupt"
"""The key of what is urgent by itself."""

CHILD: Final = "child:"
"""What the keys begin with under which the platform tells how children end; the child's id follows."""
APPROVAL: Final = "approval:"
"""What those begin with under which it tells what people have decided; the approval's id follows."""
RESERVED: Final = (CHILD, APPROVAL)
"""Keys and ids of signals that begin so are the platform's: nobody else may say that, nor be there first."""


class InputPolicy(IntEnum):
    """What becomes of input while a run is going on: the numbers of `holdfast.v1.InputPolicy`."""

    ENQUEUE = 1
    INTERRUPT = 2
    REJECT = 3
    RESTART = 4


class Entry(Enum):
    """What becomes of a signal that is not there yet."""

    ENTERS = "it waits for the agent"
    ENDED = "the run has ended"
    REJECTED = "the agent takes no input"
    FULL = "too much waits already"


@dataclass(frozen=True, slots=True)
class Box:
    """A run's mailbox under the run's lock."""

    status: RunStatus
    policy: InputPolicy = InputPolicy.ENQUEUE
    waiting: int = 0
    bytes: int = 0


def entry(box: Box, key: str, size: int) -> Entry:
    """Decide about a signal of `size` bytes; the first reason against it holds."""
    if box.status in ENDED:
        return Entry.ENDED
    if key == INPUT and box.policy is InputPolicy.REJECT:
        return Entry.REJECTED
    if box.waiting >= MAX_WAITING or box.bytes + size > MAX_BYTES:
        return Entry.FULL
    return Entry.ENTERS


def is_urgent(box: Box, key: str, *, asked: bool) -> bool:
    """Say whether it cancels a step in flight: because it was sent so, or because the agent wants it so."""
    return asked or (key == INPUT and box.policy is InputPolicy.INTERRUPT)
