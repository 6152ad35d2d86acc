"""What may be repeated is repeated when that can help: a few times, with jitter, and never for long."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc

from holdfast.client.errors import HoldfastError, RateLimited, Unavailable
from holdfast.client.pace import CROWDED, Out, Pace
from holdfast.client.wire_status import error_of

T = TypeVar("T")

Lost = Callable[[HoldfastError], None]
"""Is told why a stream broke, each time before it is joined again."""

_PASSING: Final = (Unavailable, RateLimited, *CROWDED)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long a repeatable call is tried; durations in seconds.

    Pauses are exponential with full jitter from `first_pause`, capped; a server that says when to come again
    is not called before; if it has too much to do, calls come spread over as long again, and new ones wait
    with them. `patience` bounds the pauses and such waits together; with a single attempt nothing waits.
    """

    attempts: int = 8
    first_pause: float = 0.1
    longest_pause: float = 3.0
    patience: float = 30.0

    def pause_after(self, attempt: int, error: HoldfastError) -> float:
        """Return the seconds to wait after the failed attempt of that number, from 1."""
        cap = min(self.longest_pause, self.first_pause * 2 ** (attempt - 1))
        told = error.retry_after or 0.0
        if isinstance(error, CROWDED):  # it tells all the same, and they must not come all at once
            cap = max(cap, told)
        return told + random.uniform(0, cap)  # noqa: S311 - spreads load, keeps no secret


ONCE: Final = Retries(attempts=1)


class Repetition:
    """Counts the failures in a row of one call or stream, and waits between them."""

    def __init__(self, retries: Retries, lost: Lost | None = None) -> None:
        self._retries = retries
        self._lost = lost
        self.forget()

    def forget(self) -> None:
        """There was progress: the next failure is a first one again."""
        self._attempt = 0
        self._waited = 0.0

    async def turn(self, pace: Pace) -> Out:
        """Wait until an attempt may go, and count it as out; whoever tries but once does not wait."""
        patience = self._retries.patience - self._waited if self._retries.attempts > 1 else 0.0
        began = time.monotonic()
        out = await pace.turn(patience)
        self._waited += time.monotonic() - began
        return out

    async def pause(self, error: HoldfastError) -> None:
        """Wait before the next attempt, or raise `error` if there is no point in one."""
        self._attempt += 1
        pause = self._retries.pause_after(self._attempt, error)
        self._waited += pause
        exhausted = self._attempt >= self._retries.attempts or self._waited > self._retries.patience
        if exhausted or not isinstance(error, _PASSING):
            raise error
        if self._lost is not None:
            self._lost(error)
        await asyncio.sleep(pause)


async def calling(call: Callable[[], Awaitable[T]], retries: Retries, pace: Pace) -> T:
    """Await `call()` at that pace; again after failures that pass. Raises `HoldfastError`s only."""
    repetition = Repetition(retries)
    while True:
        out = await repetition.turn(pace)
        try:
            answer = await call()
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure)
            if isinstance(error, _PASSING):
                pace.failed(out, error)
            else:
                pace.taken(out)
            await repetition.pause(error)
        else:
            pace.taken(out)
            return answer
