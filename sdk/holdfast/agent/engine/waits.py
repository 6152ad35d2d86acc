"""The waits of a run, and when it may rest: parked, it holds no runner, and a signal or a time wakes it.

asked ──▶ hot ──(it comes)──▶ recorded
           └──(HOT seconds)──▶ cold: its intent is recorded ──(it comes)──▶ recorded
                                 └──(no step is going on, every wait is cold)──▶ the run parks

A wait that a park or a crash cuts short goes on in the next lease: its intent says how long it still takes.
What an agent awaits beside a wait without a step of its own (a sleep of asyncio's, a future) does not keep
the run from parking, and is not waited for then.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.agent.engine.attempt import Asked
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.error import Parked, RunStopped
from holdfast.agent.wire.draft import make_intent
from holdfast.agent.wire.invocation import History

HOT: Final = 1.0
"""Seconds that a wait stays on its runner before the run may rest."""


class Stops(Protocol):
    """Can stop the run."""

    def stop(self, stopped: RunStopped) -> None:
        """Stop the run; repeatable, the first cause counts."""


@dataclass(slots=True, eq=False)
class Pending:
    """A wait that goes on; `ends` is the time of the loop at which it ends by itself."""

    key: str
    call: Call
    asked: Asked
    ends: float | None
    recorded: bool
    cold: bool = False


class Waits:
    """Counts what a run is doing, and parks it when it only waits."""

    __slots__ = ("_busy", "_history", "_loop", "_now", "_pending", "_pipeline", "_stops", "hot")

    def __init__(self, history: History, pipeline: Pipeline, stops: Stops, now: Callable[[], float]) -> None:
        """Take the ledger's clock, which is never ahead of the ledger's own, for waits until a time."""
        self._history = history
        self._pipeline = pipeline
        self._stops = stops
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, Pending] = {}
        self._busy = 0
        self.hot = HOT

    @contextmanager
    def going_on(self, key: str, call: Call, asked: Asked) -> Iterator[None]:
        """Hold the run for a step; only what waits lets it go, once it has waited long enough."""
        wait = call.wait
        if wait is None:
            self._busy += 1
            try:
                yield
            finally:
                self._busy -= 1
                self._rest()
            return
        pending = Pending(key, call, asked, None, recorded=False)
        begun = self._history.intent(key)
        pending.recorded = begun is not None
        seconds = wait.seconds(self._now()) if begun is None else begun.wait_left
        if seconds is not None:
            pending.ends = self._loop.time() + seconds
        self._pending[key] = pending
        timer = self._loop.call_later(self.hot, self._cool, pending)
        try:
            yield
        finally:
            timer.cancel()
            del self._pending[key]
            self._rest()

    def begun(self, key: str) -> bool:
        """Tell whether an earlier lease has recorded that a wait was begun."""
        return self._history.intent(key) is not None

    def ends(self, key: str) -> float | None:
        """Return when a wait that is going on ends by itself, by the loop's clock."""
        return self._pending[key].ends

    def resumed(self, key: str) -> bool:
        """Tell whether a wait goes on that an earlier lease has begun."""
        pending = self._pending.get(key)
        return pending is not None and pending.recorded

    def move(self) -> tuple[list[str], float | None]:
        """Return what wakes the run now: mailbox keys, and the seconds until a wait ends by itself."""
        keys = [key for pending in self._pending.values() for key in _keys(pending)]
        ends = [pending.ends for pending in self._pending.values() if pending.ends is not None]
        return keys, max(0.0, min(ends) - self._loop.time()) if ends else None

    def _cool(self, pending: Pending) -> None:
        pending.cold = True
        if not pending.recorded:
            left = None if pending.ends is None else max(0.0, pending.ends - self._loop.time())
            asked = pending.asked
            self._pipeline.draft.record(
                make_intent(pending.key, pending.call.kind, asked.fingerprint, asked.input, wait_for=left)
            )
            self._pipeline.flush_soon()
        self._rest()

    def _rest(self) -> None:
        if not self._busy and self._pending and all(each.cold for each in self._pending.values()):
            self._stops.stop(Parked(*self.move()))


def _keys(pending: Pending) -> tuple[str, ...]:
    return () if pending.call.wait is None else pending.call.wait.keys
