"""When those who follow a run hear what it has spent: after model calls, and where it begins to matter."""

import time
from collections.abc import Callable
from typing import Final

from holdfast.agent.budget import Meter
from holdfast.agent.degradation import shares_of

THRESHOLDS: Final = (0.5, 0.75, 0.9)
"""None is below that of `Meter.hardly_spent`."""
PAUSE: Final = 0.25  # seconds


class Reports:
    """Says whether a report is due: at a limit's thresholds once, else after model calls, not too often."""

    __slots__ = ("_clock", "_last", "_meter", "_passed")

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = meter
        self._clock = clock
        self._last = float("-inf")
        self._passed = self._reached()

    def due(self, *, after_model: bool) -> bool:
        """Say whether to report now; the answer yes is taken as done."""
        reached = self._reached()
        crossed = reached > self._passed
        self._passed = reached
        if not crossed and not (after_model and self._clock() - self._last >= PAUSE):
            return False
        self._last = self._clock()
        return True

    def _reached(self) -> int:
        if self._meter.hardly_spent:
            return 0  # as after most steps
        return sum(share >= threshold for share in shares_of(self._meter) for threshold in THRESHOLDS)
