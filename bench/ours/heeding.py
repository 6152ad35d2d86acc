"""Calls whose caller heeds what it is told as `holdfast.client` does, at the cost of `bench.http2`."""

import time
from typing import Final

from bench.http2 import Calls
from holdfast.client.errors import QueueFull, Unavailable
from holdfast.client.pace import Pace

_REFUSED: Final = "8 come again"
_FULL: Final = QueueFull("The queue is full.")
_AWAY: Final = Unavailable("The call was reset.")


class HeedingCalls(Calls):
    """Calls that go out at the client's pace; those held back fail at once, as for who tries but once."""

    def __init__(self, authority: str, path: str, message: bytes) -> None:
        super().__init__(authority, path, message)
        self._pace = Pace()
        self._asked_at: dict[int, float] = {}

    def turn(self, begin: int) -> None:
        """Begin those of so many calls whose turn it is, and read what has been answered."""
        going = sum(self._pace.goes() for _ in range(begin))
        self.told["held back"] += begin - going
        before = self._stream
        super().turn(going)
        now = time.monotonic()
        self._asked_at |= dict.fromkeys(range(before + 2, self._stream + 2, 2), now)

    def _end(self, stream: int, outcome: str) -> None:
        super()._end(stream, outcome)
        asked = self._asked_at.pop(stream)
        if outcome != "0":
            self._pace.failed(asked, _FULL if outcome == _REFUSED else _AWAY)
