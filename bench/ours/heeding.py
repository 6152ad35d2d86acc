"""Calls whose caller heeds what it is told as `holdfast.client` does, at the cost of `bench.http2`."""

from typing import Final

from bench.http2 import Calls
from holdfast.client.errors import QueueFull, Unavailable
from holdfast.client.pace import Out, Pace

_REFUSED: Final = "8 come again"
_FULL: Final = QueueFull("The queue is full.")
_AWAY: Final = Unavailable("The call was reset.")


class HeedingCalls(Calls):
    """Calls that go out at the client's pace; those held back fail at once, as for who tries but once."""

    def __init__(self, authority: str, path: str, message: bytes) -> None:
        super().__init__(authority, path, message)
        self._pace = Pace()
        self._out: dict[int, Out] = {}
        self._next = self._stream + 2

    def turn(self, begin: int) -> None:
        """Begin those of so many calls whose turn it is, and read what has been answered."""
        held_back = 0
        for _ in range(begin):
            out = self._pace.goes()
            if out is None:
                held_back += 1
                continue
            self._out[self._next] = out
            self._next += 2
        self.told["held back"] += held_back
        super().turn(begin - held_back)

    def _end(self, stream: int, outcome: str) -> None:
        super()._end(stream, outcome)
        out = self._out.pop(stream)
        if outcome == "0":
            self._pace.taken(out)
        else:
            self._pace.failed(out, _FULL if outcome == _REFUSED else _AWAY)
