"""The waits of a run, and when it may rest: parked, it holds no runner, and a signal or a time wakes it.

asked ──▶ hot ──(it comes)──▶ recorded
           └──(HOT seconds)──▶ its intent is recorded ──(it comes)──▶ recorded
                                 └──(for HOT seconds nothing but waits was going on)──▶ the run parks

A wait that a park or a crash cuts short goes on in the next lease: its intent says how long it still takes.
A branch between two of its steps is going on, too, so the run rests only when it was quiet for a while. What
an agent awaits for longer beside a wait without a step of its own (a sleep of asyncio's, a future) does not
keep the run from parking, and is not waited for then.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from holdfast.agent.engine.attempt import Asked
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.halt import Stops
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.error import Parked
from holdfast.agent.wire.draft import make_intent
from holdfast.agent.wire.invocation import History

HOT: Final = 1.0
"""Seconds that a wait stays on its runner before the run may rest."""
MOST_KEYS: Final = 999
"""Mailbox keys that a run may wait for to rest: a park may name one more, which is that of its input."""


@dataclass(slots=True, eq=False)
class Pending:
    """A wait that goes on; `ends` is the time of the loop at which it ends by itself."""

    key: str
    call: Call
    asked: Asked
    ends: float | None
    recorded: bool


class Waits:
    """Counts what a run is doing, and parks it when it only waits."""

    __slots__ = ("_busy", "_history", "_hot", "_loop", "_now", "_pending", "_pipeline", "_quiet", "_stops")

    def __init__(self, history: History, pipeline: Pipeline, stops: Stops, now: Callable[[], float]) -> None:
        """Take the ledger's clock, which is never ahead of the ledger's own, for waits until a time."""
        self._history = history
        self._pipeline = pipeline
        self._stops = stops
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, Pending] = {}
        self._busy = 0
        self._quiet: asyncio.TimerHandle | None = None
        self._hot = HOT

    def step_begins(self) -> None:
        """Keep the run on its runner for a step, from before it begins until its record is durable."""
        self._busy += 1
        if self._pending:
            self._listen()

    def step_is_over(self) -> None:
        """Let the run go again, as far as that step goes."""
        self._busy -= 1
        if self._pending:
            self._listen()

    @contextmanager
    def waiting(self, key: str, call: Call, asked: Asked) -> Iterator[None]:
        """Let the run go, if it likes, while a step of it waits."""
        wait = call.wait
        assert wait is not None  # the caller has looked
        begun = self._history.intent(key)
        seconds = wait.seconds(self._now()) if begun is None else begun.wait_left
        ends = None if seconds is None else self._loop.time() + seconds
        pending = Pending(key, call, asked, ends, recorded=begun is not None)
        self._pending[key] = pending
        self._busy -= 1
        self._listen()
        timer = self._loop.call_later(self._hot, self._record, pending)
        try:
            yield
        finally:
            timer.cancel()
            del self._pending[key]
            self._busy += 1
            self._listen()

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

    def _record(self, pending: Pending) -> None:
        if pending.recorded:
            return
        pending.recorded = True
        left = None if pending.ends is None else max(0.0, pending.ends - self._loop.time())
        asked = pending.asked
        self._pipeline.draft.record(
            make_intent(pending.key, pending.call.kind, asked.fingerprint, asked.input, wait_for=left)
        )
        self._pipeline.flush_soon()

    def _listen(self) -> None:
        """Begin anew to count how long nothing but waits is going on."""
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        if self._pending and not self._busy:
            self._quiet = self._loop.call_later(self._hot, self._rest)

    def _rest(self) -> None:
        keys = [key for pending in self._pending.values() for key in _keys(pending)]
        if len(keys) > MOST_KEYS:
            return
        for pending in self._pending.values():
            self._record(pending)
        ends = [pending.ends for pending in self._pending.values() if pending.ends is not None]
        self._stops.stop(Parked(keys, max(0.0, min(ends) - self._loop.time()) if ends else None))


def _keys(pending: Pending) -> tuple[str, ...]:
    return () if pending.call.wait is None else pending.call.wait.keys
