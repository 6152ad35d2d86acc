"""An event loop whose time jumps to the next timer when nothing else is left to do.

work is ready ──▶ it is done, and takes no time
  └─(none)──▶ threads at work, or connections that were not silent for QUIET ──▶ real time passes
                └─(none)──▶ the time is that of the next timer, at once

Work handed to threads (`asyncio.to_thread`) is waited for as long as it takes. A connection may idle in a
pool for ever, so it holds the time for a second of silence only. Threads that the loop has not started are
not known to it: the time jumps over them.

Several runs go on at once on such a loop, so it knows of each task on whose behalf it was begun.
"""

import asyncio
import selectors
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

QUIET: Final = 1.0
"""Seconds of real time that an open connection may be silent before time jumps all the same."""
_RESOLUTION: Final = 1e-7
"""Seconds that are as good as none: after half a year, a double cannot tell times a nanosecond apart."""
_OWN: Final = 1
"""Files that an event loop watches for itself."""

holder: ContextVar[object] = ContextVar("holdfast_holder", default=None)
"""On whose behalf the code runs: what a lab gives to each lease of each run."""


class _Watch(selectors.BaseSelector):
    """Waits for files as the selector given does, and asks its loop how long."""

    def __init__(self) -> None:
        self.wait: Callable[[float | None], list[Any]] = self.ready
        self._selector = selectors.DefaultSelector()

    def ready(self, timeout: float | None) -> list[Any]:
        """Wait really. `timeout` is in seconds."""
        return self._selector.select(timeout)

    def select(self, timeout: float | None = None) -> list[Any]:
        return self.wait(timeout)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def close(self) -> None:
        self._selector.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that begins at time 0 and waits for nothing but the world outside."""

    def __init__(self) -> None:
        self._now = 0.0
        self._at_work = 0
        self._holders: weakref.WeakKeyDictionary[asyncio.Task[Any], object] = weakref.WeakKeyDictionary()
        self._watch = _Watch()
        super().__init__(self._watch)
        self._clock_resolution = _RESOLUTION  # of asyncio: what is due within that is due
        self._watch.wait = self._pass

    def time(self) -> float:
        """Return the seconds that have passed, jumps included."""
        return self._now

    def tasks_of(self, one: object) -> "set[asyncio.Task[Any]]":
        """Return the tasks that are not done and that were begun by code that ran on behalf of that one."""
        return {task for task in asyncio.all_tasks(self) if self._holders.get(task) is one}

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call a function on the next round.

        A task does so when it begins, in the context of who begins it: whatever it was made by, and whichever
        context it is to run in itself.
        """
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task):
            self._holders.setdefault(task, holder.get())
        return super().call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """Call a function in a thread; time passes as it does until it returns."""
        future = super().run_in_executor(executor, func, *args)
        self._at_work += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: "asyncio.Future[Any]") -> None:
        self._at_work -= 1

    def _pass(self, timeout: float | None) -> list[Any]:
        """Let up to `timeout` seconds pass, None for as many as it takes until something is ready."""
        if timeout is None or timeout <= 0:
            return self._watch.ready(timeout)
        found = self._watch.ready(0)
        if found:
            return found
        if self._at_work or len(self._watch.get_map()) > _OWN:
            longest = timeout if self._at_work else min(timeout, QUIET)
            began = time.monotonic()
            found = self._watch.ready(longest)
            passed = time.monotonic() - began
            if found or self._at_work:
                self._now += min(passed, timeout)
                return found
        self._now += timeout
        return found
