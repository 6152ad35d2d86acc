"""How fast a tenant may start runs: a bucket that leaks.

Each run puts one drop in, `rate` drops leak out a second, and nothing goes in that would not fit. So in any
stretch of s seconds at most `room + rate * s` runs start (the "leaky bucket as a meter" of ITU-T I.371).
"""

import math


class Pace:
    """One tenant's bucket while a group of invocations passes, at one moment.

    `spent` is what was in it `elapsed` seconds ago; a clock that went back leaks nothing.
    """

    def __init__(self, rate: float, room: float, spent: float, elapsed: float) -> None:
        self.rate = rate
        self._room = room
        self.spent = leaked(spent, rate, elapsed)
        self._refused = 0

    @property
    def is_open(self) -> bool:
        """One more run fits."""
        return self.spent + 1 <= self._room

    def take(self) -> None:
        """Count a run; only while it `is_open`."""
        self.spent += 1

    def refuse(self) -> float:
        """Return after how many seconds a run that does not fit now would, to the millisecond above.

        Those refused one after the other are sent away for longer and longer: they shall not come back at
        the same moment, for one place.
        """
        self._refused += 1
        return max(1, math.ceil(1000 * (self.spent + self._refused - self._room) / self.rate)) / 1000


def leaked(spent: float, rate: float, elapsed: float) -> float:
    """Return what is left in a bucket after `elapsed` seconds."""
    return max(0.0, spent - rate * max(0.0, elapsed))
