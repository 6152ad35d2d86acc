"""While a server has too much to do, calls go out as fast as they lately were taken: the rest wait here.

New calls count as repeated ones do, so whoever is told to come again holds back what has not been asked yet,
too. As the server finds room its share grows, and with time alone: slowly while it refuses some, fast once
it refuses none.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from holdfast.client.errors import HoldfastError, QueueFull, TooManyCalls

CROWDED: Final = (QueueFull, TooManyCalls)
"""What refuses a call for what others ask; where each is told a time of its own there is nothing to pace."""

MEMORY: Final = 1.0
"""Seconds after which a call counts e times less, if refusals come soon."""
DELAYS: Final = 4.0
"""Times as long as refusals take to come: what is sent meanwhile must not outweigh them."""
MORE: Final = 1.1
"""As many times what was taken goes out."""
FASTER: Final = 1.0
"""And so many times more for each second in which none of them was refused."""
MOST: Final = 2.0
"""But so many times at most: it takes a while until too many are refused."""
ALWAYS: Final = 20.0
"""Calls a second that go out whatever becomes of them."""
FEW: Final = 6.0
"""Calls that may go out at once, after a rest."""
FORGET: Final = 3.0
"""Seconds after which a refusal means nothing, unless calls have waited since."""
TICK: Final = 0.005
BURST: Final = 4 * TICK
"""Seconds whose calls go out at once if nobody looked meanwhile."""


class Pace:
    """How fast the calls of one method go out; there is none until one was refused because of the crowd."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken = 0.0  # a second, lately, if no more are refused of those that are out
        self._as_of = self._next = clock()
        self._refused_last = -math.inf
        self._delay = 0.0
        self._refusal: HoldfastError | None = None
        self._line: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def goes(self) -> bool:
        """Count a call as out if one may go now, before none that waits."""
        return not self._line and self._goes()

    async def turn(self, patience: float) -> float:
        """Wait until a call may go, and return when that is, by the clock.

        Raises the last refusal again if that takes more than `patience` seconds, at once if that can be told.
        """
        if self.goes():
            return self._as_of
        if patience <= 0 or len(self._line) >= patience * self._rate():
            raise self._held_back()
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._wait()
        try:
            async with asyncio.timeout(patience):
                await turn
        except TimeoutError:
            raise self._held_back() from None
        return self._as_of

    def failed(self, asked: float, error: HoldfastError) -> None:
        """Note that a call which went out at `asked` was not taken; slow down if that is for the crowd."""
        self._fade()
        memory = self._memory()
        self._taken = max(0.0, self._taken - math.exp((asked - self._as_of) / memory) / memory)
        if isinstance(error, CROWDED):
            self._refusal, self._refused_last = error, self._as_of
            self._delay = self._as_of - asked

    def _goes(self) -> bool:
        """Count a call as out, if one may go."""
        self._fade()
        now = self._as_of
        if self._line or self._unrefused() < FORGET:
            rate = self._rate()
            since = max(self._next, now - max(BURST, FEW / rate))
            if since > now:
                return False
            self._next = since + 1.0 / rate
        self._taken += 1.0 / self._memory()
        return True

    def _rate(self) -> float:
        more = min(MORE + FASTER * self._unrefused(), MOST)
        return more * self._taken + ALWAYS

    def _memory(self) -> float:
        return max(MEMORY, DELAYS * self._delay)

    def _unrefused(self) -> float:
        """Return the seconds for which none was refused, of those whose refusal would have come by now."""
        return max(0.0, self._as_of - self._refused_last - self._delay)

    def _fade(self) -> None:
        now = self._clock()
        self._taken *= math.exp((self._as_of - now) / self._memory())
        self._as_of = now

    def _wait(self) -> None:
        if self._timer is None:
            pause = max(TICK, self._next - self._clock())
            self._timer = asyncio.get_running_loop().call_later(pause, self._release)

    def _release(self) -> None:
        """Let those go whose turn it is."""
        self._timer = None
        while self._line and (self._line[0].done() or self._goes()):
            turn = self._line.popleft()
            if not turn.done():  # its caller has gone
                turn.set_result(None)
        if self._line:
            self._wait()

    def _held_back(self) -> HoldfastError:
        """Return the last refusal, for a call that has not been made."""
        told = self._refusal
        assert told is not None, "nobody waits before somebody was refused"
        error = type(told)(
            told.message,
            code=told.code,
            reason=told.reason,
            facts=told.facts,
            retry_after=told.retry_after,
            quota=told.quota,
        )
        error.add_note("The client has held this call back, for others were refused just now.")
        return error
