"""A run that was stopped goes no further: whatever the engine does next asks here."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.error import RunStopped

T = TypeVar("T")


class Stops(Protocol):
    """Knows whether the run has been stopped, and can stop it."""

    stopped: RunStopped | None

    def stop(self, stopped: RunStopped) -> None:
        """Stop the run; repeatable, the first cause counts."""


class Halt:
    """Raises what has stopped the run."""

    __slots__ = ("_stops", "_transcript")

    def __init__(self, stops: Stops, transcript: Transcript) -> None:
        self._stops = stops
        self._transcript = transcript

    def check(self) -> None:
        """Raise what has stopped the run, if something has."""
        if self._stops.stopped is not None:
            raise self._stops.stopped

    def check_open(self) -> None:
        """Raise if the run has told all it has to tell: code that did not let go when it was stopped."""
        if self._transcript.closed:
            raise self._stops.stopped or RunStopped("the run has ended")

    def stop(self, stopped: RunStopped) -> None:
        """Stop the run, and raise what has stopped it: this, or what was first."""
        self._stops.stop(stopped)
        self.check()

    async def awaited(self, wait: Awaitable[T]) -> T:
        """Wait for something of the engine's own; a run that was stopped goes no further."""
        try:
            value = await wait
        except asyncio.CancelledError:
            self.check()
            raise
        self.check()
        return value
