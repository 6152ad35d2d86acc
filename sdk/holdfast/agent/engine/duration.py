"""How long steps took lately in this process, by name: what the next one may take."""

import math
from collections import deque
from typing import Final

LAST: Final = 128
"""Durations kept of a name."""
LEAST: Final = 20
"""Durations from which something can be said."""
NAMES: Final = 1000
"""Names remembered; of one that comes later nothing is known."""


class Durations:
    """The last durations of each step of one agent, in seconds; never more than a bound."""

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        self._by_name: dict[str, deque[float]] = {}

    def note(self, name: str, seconds: float) -> None:
        """Remember how long a step took, its tries and the waits between them included."""
        lasted = self._by_name.get(name)
        if lasted is None:
            if len(self._by_name) >= NAMES:
                return
            lasted = self._by_name[name] = deque(maxlen=LAST)
        lasted.append(seconds)

    def p95(self, name: str) -> float | None:
        """Return what 95 of 100 of its last uses did not pass (nearest rank); None for fewer than 20."""
        lasted = self._by_name.get(name)
        if lasted is None or len(lasted) < LEAST:
            return None
        return sorted(lasted)[math.ceil(0.95 * len(lasted)) - 1]
