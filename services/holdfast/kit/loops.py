"""A loop does its work again and again, whatever happens, until it is told to stop.

    working ──(did something, eager)──▶ working
       │ ──(nothing to do)────────────▶ resting ──(interval | wake)──▶ working
       │ ──(raised)───────────────────▶ backing off ──(pause)────────▶ working

`stop` ends it from any of the three; a round in progress is finished first, never cut.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.kit.telemetry.logs import logger

_log: Final = logger("loop")


class Signal:
    """Counts rounds, so that a test waits for one instead of sleeping."""

    def __init__(self) -> None:
        self._round = asyncio.Condition()
        self.rounds = 0

    async def completed(self, n_after: int = 1, *, deadline: float = 10.0) -> None:
        """Wait until `n_after` more rounds ended, well or badly; `TimeoutError` after `deadline` seconds.

        A round that was already in progress when this was called counts.
        """
        target = self.rounds + n_after
        async with asyncio.timeout(deadline), self._round:
            await self._round.wait_for(lambda: self.rounds >= target)

    async def note(self) -> None:
        """Count one round."""
        async with self._round:
            self.rounds += 1
            self._round.notify_all()


class Loop:
    """Drives `run_once`, which returns how much it did.

    `interval` is the rest in seconds after a round with nothing to do, varied by `jitter` (a share of it, so
    that many processes spread). While rounds return more than 0 an `eager` loop does not rest. A round that
    raises is logged and followed by a pause that doubles from `interval` (where that is less) up to
    `max_backoff` seconds.
    """

    def __init__(
        self,
        name: str,
        run_once: Callable[[], Awaitable[int]],
        *,
        interval: float,
        jitter: float = 0.1,
        eager: bool = True,
        max_backoff: float = 5.0,
    ) -> None:
        self.name = name
        self.signal = Signal()
        self._run_once = run_once
        self._interval = interval
        self._jitter = jitter
        self._eager = eager
        self._max_backoff = max_backoff
        self._woken = False
        self._stopping = False
        self._resting: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._failures = 0

    def wake(self) -> None:
        """Start the next round at once; many wake-ups before it are one."""
        self._woken = True
        if not self._failures:  # a failing loop does not listen: whoever wakes it often would undo the pause
            self._end_rest()

    def wake_within(self, seconds: float) -> None:
        """Wake after so many seconds, unless an earlier time was asked for: of many the earliest holds."""
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            if self._alarm.when() <= loop.time() + seconds:
                return
            self._alarm.cancel()
        self._alarm = loop.call_later(seconds, self._ring)

    def stop(self) -> None:
        """End after the round in progress; repeatable, also before and after `run`."""
        self._stopping = True
        self._end_rest()

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Run rounds until `stop` is set or `stop()` is called.

        Cancelling cuts the round in progress: only for a process that must go now.
        """
        told = asyncio.ensure_future(self._stop_with(stop)) if stop is not None else None
        try:
            while not self._stopping and not (stop is not None and stop.is_set()):
                pause = await self._round()
                await self.signal.note()
                if pause > 0:
                    await self._rest(pause)
                else:
                    await asyncio.sleep(0)  # an eager loop lets others work too
        finally:
            if told is not None:
                told.cancel()
            if self._alarm is not None:
                self._alarm.cancel()

    async def _round(self) -> float:
        """Do one round and say how long to rest."""
        self._woken = False  # before the work: a wake-up during the round starts another
        try:
            done = await self._run_once()
        except Exception as error:  # noqa: BLE001 - a loop outlives every failure of a round
            self._failures += 1
            pause = self._backoff()
            _log.error(
                "round failed", error=error, loop=self.name, failures=self._failures, pause_s=round(pause, 3)
            )
            return pause
        self._failures = 0
        if done > 0 and self._eager:
            return 0.0
        return self._vary(self._interval)

    async def _rest(self, pause: float) -> None:
        if self._stopping or (self._woken and not self._failures):
            return
        loop = asyncio.get_running_loop()
        self._resting = loop.create_future()
        timer = loop.call_later(pause, self._end_rest)
        try:
            await self._resting
        finally:
            timer.cancel()
            self._resting = None

    def _ring(self) -> None:
        self._alarm = None
        self.wake()

    def _end_rest(self) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    async def _stop_with(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.stop()

    def _backoff(self) -> float:
        doubled: float = max(self._interval, 0.05) * 2.0 ** min(self._failures - 1, 16)
        ceiling = min(self._max_backoff, doubled)
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret

    def _vary(self, seconds: float) -> float:
        return seconds * random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - as above
