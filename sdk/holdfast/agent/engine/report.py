"""When those who follow a run hear what it has spent: after model calls, and where it begins to matter."""

import time
from collections.abc import Callable
from typing import Final

from holdfast.agent.budget import Budget
from holdfast.agent.degradation import shares_of

THRESHOLDS: Final = (0.5, 0.75, 0.9)
PAUSE: Final = 0.25  # seconds


class Reports:
    """Says whether a report is due: at a limit's thresholds once, else after model calls, not too often."""

    __slots__ = ("_budget", "_clock", "_last", "_passed")

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._last = float("-inf")
        self._passed = self._reached()

    def due(self, *, after_model: bool) -> bool:
        """Say whether to report now; the answer yes is taken as done."""
        reached = self._reached()
        crossed = reached > self._passed
        self._passed = reached
        now = self._clock()
        if not crossed and not (after_model and now - self._last >= PAUSE):
            return False
        self._last = now
        return True

    def _reached(self) -> int:
        shares = shares_of(self._budget)
        if max(shares) < THRESHOLDS[0]:
            return 0  # as after most steps
        return sum(share >= threshold for share in shares for threshold in THRESHOLDS)
