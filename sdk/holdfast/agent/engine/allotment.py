"""Tokens set aside for model calls in flight: a call that does not fit beside the others waits for them.

asked ──(fits, or nothing else is in flight)──▶ in flight ──▶ given back, what it cost stays set aside
  └──(does not fit)──▶ waits in line ──(others are given back)──▶ in flight

A call alone takes what is left, however little. So the limit is passed at most by what a call writes beyond
what was set aside for it, and how long a reply may be does not depend on what happens to run beside it.
"""

import asyncio
import contextvars
from collections import deque
from dataclasses import dataclass

from holdfast.agent.budget import Meter, Usage

_EMPTY = contextvars.Context()


@dataclass(slots=True)
class _Waiting:
    """A call in line: what it reads, what it may write, and the turn it waits for."""

    read: int
    write: int
    turn: "asyncio.Future[int]"


class Allotment:
    """Divides what is left of a run's tokens among its calls; for one event loop."""

    __slots__ = ("_in_flight", "_line", "_loop", "_meter", "_unrecorded")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._line: deque[_Waiting] = deque()
        self._unrecorded = Usage()

    async def take(self, read: int, write: int) -> int:
        """Set aside what a call reads and may write; return how much it may write, 0 if it cannot start.

        Unless that is 0, `give_back` must follow with the same numbers. Cancelling the wait leaves the line.
        """
        if not self._line and self._fits(read + write):
            return self._granted(read, write)
        waiting = _Waiting(read, write, self._loop.create_future())
        self._line.append(waiting)
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._line.remove(waiting)
                self._soon()
            elif waiting.turn.result():
                self.give_back(read, waiting.turn.result())
            raise

    def give_back(self, read: int, write: int) -> None:
        """Let others have what a call had set aside; charge it, or `keep` what it cost, before they can."""
        self._in_flight -= 1
        self._meter.set_aside(-(read + write))
        self._soon()

    def keep(self, tokens: int) -> None:
        """Set aside what a try has cost that is not recorded yet; the negative number when it is."""
        self._meter.set_aside(tokens)

    def lose(self, cost: Usage) -> None:
        """Note what was paid for a step that will not be recorded; it is charged when the run is left."""
        self._unrecorded.tokens += cost.tokens
        self._unrecorded.context = max(self._unrecorded.context, cost.context)
        self._meter.set_aside(cost.tokens)

    def lost(self) -> Usage:
        """Return what was paid for and is in no record, and set it aside no longer: it is to be charged.

        Nothing, if the limit is reached without it: the ledger would refuse the records it goes with.
        """
        lost, self._unrecorded = self._unrecorded, Usage()
        self._meter.set_aside(-lost.tokens)
        meter = self._meter
        reached = meter.spent.tokens + meter.lent.tokens >= meter.limits.tokens
        return Usage() if reached else lost

    def _fits(self, tokens: int) -> bool:
        return not self._in_flight or tokens <= self._meter.tokens

    def _granted(self, read: int, write: int) -> int:
        write = max(0, min(write, self._meter.tokens - read))
        if write:
            self._in_flight += 1
            self._meter.set_aside(read + write)
        return write

    def _soon(self) -> None:
        """Serve the line in the loop's next turn: what was given back is charged by then."""
        if self._line:
            self._loop.call_soon(self._serve, context=_EMPTY)

    def _serve(self) -> None:
        while self._line and self._fits(self._line[0].read + self._line[0].write):
            first = self._line.popleft()
            if not first.turn.done():  # else its waiter is cancelled
                first.turn.set_result(self._granted(first.read, first.write))
