"""Which end of a run has its steps undone before it: decided once, by whoever would end it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from types import MappingProxyType
from typing import Final

from holdfast.ledger.domain.status import RunStatus


class UndoOn(IntFlag):
    """Ends of a run; `holdfast.v1.UndoOn` numbers them 1, 2, 3."""

    NONE = 0
    FAILURE = 1
    CANCEL = 2
    EXHAUSTED = 4


@dataclass(frozen=True, slots=True)
class Undoing:
    """What a run has said of its undos: the ends that call for them, and whether they go on already."""

    on: UndoOn = UndoOn.NONE
    begun: bool = False


_ENDS: Final[Mapping[RunStatus, UndoOn]] = MappingProxyType(
    {
        RunStatus.FAILED: UndoOn.FAILURE,
        RunStatus.DEAD_LETTERED: UndoOn.FAILURE,
        RunStatus.CANCELLED: UndoOn.CANCEL,
        RunStatus.PARTIAL: UndoOn.EXHAUSTED,
    }
)


def called_for(end: RunStatus, undoing: Undoing) -> bool:
    """Say whether a run has its steps undone instead of ending so."""
    return not undoing.begun and bool(_ENDS.get(end, UndoOn.NONE) & undoing.on)
