"""Where a run stands, and every move it may make.

QUEUED ─▶ RUNNING ─▶ SUCCEEDED | PARTIAL | FAILED | CANCELLED | DEAD_LETTERED | DRIFTED
▲ │        │ ├──▶ PARKED ─▶ QUEUED
│ │        │ └──▶ COMPENSATING ─▶ COMPENSATED | FAILED | QUEUED
│ ▼        ▼
│ CANCELLED | PARTIAL | DEAD_LETTERED (without a runner)
└── a failed attempt, a lost runner, a retry of an ended run
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class RunStatus(IntEnum):
    """The numbers of `holdfast.v1.RunStatus`."""

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


S = RunStatus

STATUSES: Final = {int(status): status for status in RunStatus}
"""By their numbers: looked up in a tenth of the time in which an enumeration finds its member."""

ENDED: Final = frozenset(
    {S.SUCCEEDED, S.PARTIAL, S.FAILED, S.CANCELLED, S.COMPENSATED, S.DEAD_LETTERED, S.DRIFTED}
)
"""Statuses in which a run has an outcome and is held by nobody."""

LEASED: Final = frozenset({S.RUNNING, S.COMPENSATING})
"""Statuses in which a runner holds the run."""

RETRYABLE: Final = frozenset({S.PARTIAL, S.FAILED, S.CANCELLED, S.DEAD_LETTERED, S.DRIFTED})
"""Ended statuses from which a person may start the run again."""

MOVES: Final[Mapping[RunStatus, frozenset[RunStatus]]] = MappingProxyType(
    {
        S.QUEUED: frozenset({S.RUNNING, S.CANCELLED, S.PARTIAL, S.COMPENSATING, S.FAILED}),
        S.RUNNING: frozenset(
            {
                S.QUEUED,
                S.PARKED,
                S.COMPENSATING,
                S.SUCCEEDED,
                S.PARTIAL,
                S.FAILED,
                S.CANCELLED,
                S.DEAD_LETTERED,
                S.DRIFTED,
            }
        ),
        S.PARKED: frozenset({S.QUEUED, S.CANCELLED, S.PARTIAL}),
        S.COMPENSATING: frozenset({S.QUEUED, S.COMPENSATED, S.FAILED, S.DEAD_LETTERED, S.DRIFTED}),
        S.SUCCEEDED: frozenset(),
        S.COMPENSATED: frozenset(),
        S.PARTIAL: frozenset({S.QUEUED}),
        S.FAILED: frozenset({S.QUEUED}),
        S.CANCELLED: frozenset({S.QUEUED}),
        S.DEAD_LETTERED: frozenset({S.QUEUED}),
        S.DRIFTED: frozenset({S.QUEUED}),
    }
)
"""Every legal move. A run leaves an ended status only by a retry."""


def may_move(before: RunStatus, after: RunStatus) -> bool:
    """Say whether the move is legal."""
    return after in MOVES[before]
