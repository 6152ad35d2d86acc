"""What may be repeated is repeated when that can help: a few times, with jitter, and never for long."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc

from holdfast.client.errors import HoldfastError, QueueFull, RateLimited, TooManyCalls, Unavailable
from holdfast.client.wire_status import error_of

T = TypeVar("T")

Lost = Callable[[HoldfastError], None]
"""Is told why a stream broke, each time before it is joined again."""

_CROWDED: Final = (QueueFull, TooManyCalls)
_PASSING: Final = (Unavailable, RateLimited, *_CROWDED)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long a repeatable call is tried; durations in seconds.

    Pauses are exponential with full jitter from `first_pause`, capped; a server that says when to come again
    is not called before; if it has too much to do, calls come spread over as long again. `patience` bounds
    the pauses together.
    """

    attempts: int = 8
    first_pause: float = 0.1
    longest_pause: float = 3.0
    patience: float = 30.0

    def pause_after(self, attempt: int, error: HoldfastError) -> float:
        """Return the seconds to wait after the failed attempt of that number, from 1."""
        cap = min(self.longest_pause, self.first_pause * 2 ** (attempt - 1))
        told = error.retry_after or 0.0
        if isinstance(error, _CROWDED):  # it tells all the same, and they must not come all at once
            cap = max(cap, told)
        return told + random.uniform(0, cap)  # noqa: S311 - spreads load, keeps no secret


class RetryBudget:
    """How often all calls of a client together come again to a server that has too much to do.

    `RESERVE` times at once and `PER_SECOND` times a second, and more by `SHARE` of the calls that went well;
    beyond that they come later. So whoever calls much does not make a crowd of itself. Where the server has
    told each call a time of its own (`RateLimited`) there is nothing to spread.
    """

    RESERVE: Final = 100.0
    PER_SECOND: Final = 50.0
    SHARE: Final = 0.2

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = self.RESERVE
        self._as_of = clock()

    def owed(self, error: HoldfastError) -> float:
        """Return the seconds until there is room for a repeat after this error."""
        self._refill()
        return max(0.0, (1.0 - self._left) / self.PER_SECOND) if isinstance(error, _CROWDED) else 0.0

    def spend(self, error: HoldfastError) -> None:
        """Take the room for a repeat after this error, also where it is yet to come."""
        if isinstance(error, _CROWDED):
            self._left -= 1.0

    def earn(self) -> None:
        """Make room for part of a repeat, as a call went well."""
        self._left = min(self.RESERVE, self._left + self.SHARE)

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self.RESERVE, self._left + (now - self._as_of) * self.PER_SECOND)
        self._as_of = now


class Repetition:
    """Counts the failures in a row of one call or stream, and waits between them."""

    def __init__(
        self, retries: Retries, lost: Lost | None = None, *, budget: RetryBudget | None = None
    ) -> None:
        self._retries = retries
        self._lost = lost
        self._budget = budget or RetryBudget()
        self.forget()

    def forget(self) -> None:
        """There was progress: the next failure is a first one again."""
        self._attempt = 0
        self._waited = 0.0

    async def pause(self, error: HoldfastError) -> None:
        """Wait before the next attempt, or raise `error` if there is no point in one."""
        self._attempt += 1
        pause = max(self._retries.pause_after(self._attempt, error), self._budget.owed(error))
        self._waited += pause
        exhausted = self._attempt >= self._retries.attempts or self._waited > self._retries.patience
        if exhausted or not isinstance(error, _PASSING):
            raise error
        self._budget.spend(error)
        if self._lost is not None:
            self._lost(error)
        await asyncio.sleep(pause)


async def calling(
    call: Callable[[], Awaitable[T]], retries: Retries | None, budget: RetryBudget | None = None
) -> T:
    """Await `call()`; with `retries` again after failures that pass. Raises `HoldfastError`s only."""
    repetition = Repetition(retries, budget=budget) if retries is not None else None
    while True:
        try:
            answer = await call()
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure)
            if repetition is None:
                raise error from failure
            await repetition.pause(error)
        else:
            if budget is not None:
                budget.earn()
            return answer
