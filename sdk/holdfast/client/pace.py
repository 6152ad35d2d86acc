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
"""Seconds after which a call counts e times less."""
MORE: Final = 1.1
"""As many times what was taken goes out."""
FASTER: Final = 1.0
"""And so many times more for each second without a refusal."""
MOST: Final = 2.0
"""But so many times at most: it takes a while until too many are refused."""
ALWAYS: Final = 20.0
"""Calls a second that go out whatever becomes of them."""
FEW: Final = 6.0
"""Calls that may go out at once, after a rest."""
FORGET: Final = 3.0
"""Seconds after which a refusal means nothing, unless calls have waited since."""
OPEN: Final = 1.0
"""Seconds after which a call without an answer counts as taken, or two times what refusals take to come."""
TICK: Final = 0.005
BURST: Final = 4 * TICK
"""Seconds whose calls go out at once if nobody looked meanwhile."""


class Out:
    """A call: `at` what time it went out, since when it counts as `taken`, and whether it has `ended`."""

    __slots__ = ("at", "ended", "taken")

    def __init__(self, at: float) -> None:
        self.at = at
        self.taken: float | None = None
        self.ended = False


class Pace:
    """How fast the calls of one method go out; there is none until one was refused because of the crowd.

    What was taken is known from answers, so what goes out can never outrun what comes back. A call that is
    open for long is taken, too: it waits for its run.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken = 0.0  # a second, lately
        self._as_of = self._next = clock()
        self._out: deque[Out] = deque()
        self._refused_last = -math.inf
        self._refusal: HoldfastError | None = None
        self._delay = 0.0  # from when a call goes out until it is refused
        self._line: deque[asyncio.Future[Out]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def goes(self) -> Out | None:
        """Count a call as out if one may go now, before none that waits."""
        return None if self._line else self._goes()

    async def turn(self, patience: float) -> Out:
        """Wait until a call may go, and count it as out.

        Raises the last refusal again if that takes more than `patience` seconds, at once if that can be told.
        """
        out = self.goes()
        if out is not None:
            return out
        if patience <= 0 or len(self._line) >= patience * self._rate():
            raise self._held_back()
        turn: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._wait()
        try:
            async with asyncio.timeout(patience):
                return await turn
        except TimeoutError:
            raise self._held_back() from None

    def taken(self, out: Out) -> None:
        """Note that a call was answered as one that was taken."""
        self._fade()
        out.ended = True
        self._count(out)

    def failed(self, out: Out, error: HoldfastError) -> None:
        """Note that a call was not taken; slow down if that is for the crowd."""
        self._fade()
        out.ended = True
        if out.taken is not None:
            self._taken = max(0.0, self._taken - math.exp((out.taken - self._as_of) / MEMORY) / MEMORY)
        if isinstance(error, CROWDED):
            self._refusal, self._refused_last = _same(error), self._as_of
            self._delay = self._as_of - out.at

    def _goes(self) -> Out | None:
        """Count a call as out, if one may go."""
        self._fade()
        now = self._as_of
        if self._line or now - self._refused_last < FORGET:
            rate = self._rate()
            since = max(self._next, now - max(BURST, FEW / rate))
            if since > now:
                return None
            self._next = since + 1.0 / rate
        out = Out(now)
        self._out.append(out)
        return out

    def _rate(self) -> float:
        more = min(MORE + FASTER * (self._as_of - self._refused_last), MOST)
        return more * self._taken + ALWAYS

    def _fade(self) -> None:
        """Bring what was taken up to now, with those that are open for long."""
        now = self._clock()
        self._taken *= math.exp((self._as_of - now) / MEMORY)
        self._as_of = now
        open_since = now - max(OPEN, 2.0 * self._delay)
        while self._out and self._out[0].at < open_since:
            out = self._out.popleft()
            if not out.ended:
                self._count(out)

    def _count(self, out: Out) -> None:
        if out.taken is None:
            out.taken = self._as_of
            self._taken += 1.0 / MEMORY

    def _wait(self) -> None:
        if self._timer is None:
            pause = max(TICK, self._next - self._clock())
            self._timer = asyncio.get_running_loop().call_later(pause, self._release)

    def _release(self) -> None:
        """Let those go whose turn it is."""
        self._timer = None
        while self._line:
            if self._line[0].done():  # its caller has gone
                self._line.popleft()
                continue
            out = self._goes()
            if out is None:
                break
            self._line.popleft().set_result(out)
        if self._line:
            self._wait()

    def _held_back(self) -> HoldfastError:
        """Return the last refusal, for a call that has not been made."""
        assert self._refusal is not None, "nobody waits before somebody was refused"
        error = _same(self._refusal)
        error.add_note("The client has held this call back, for others were refused just now.")
        return error


def _same(error: HoldfastError) -> HoldfastError:
    """Return such an error of its own: one that was raised holds on to the call that it ended."""
    return type(error)(
        error.message,
        code=error.code,
        reason=error.reason,
        facts=error.facts,
        retry_after=error.retry_after,
        quota=error.quota,
    )
