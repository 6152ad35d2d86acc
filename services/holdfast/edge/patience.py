"""Waiting for a server that is away: a little longer each time, and saying once what is waited for."""

import asyncio
import time
from typing import Final

from holdfast.kit.telemetry.logs import Logger

LONGEST_PAUSE_S: Final = 5.0
_MOMENT_S: Final = 1.0


class Patience:
    """When a source is read again."""

    def __init__(self, source: str, log: Logger) -> None:
        self._source = source
        self._log = log
        self._not_before = 0.0
        self._failures = 0
        self._told = ""

    async def waited(self) -> bool:
        """Wait a moment, if it is not yet time; say whether it was not."""
        pause = self._not_before - time.monotonic()
        if pause > 0:
            await asyncio.sleep(min(pause, _MOMENT_S))
        return pause > 0

    def rest(self, seconds: float) -> None:
        """Read again after so long, or what is the longest pause."""
        self._not_before = time.monotonic() + min(seconds, LONGEST_PAUSE_S)

    def failed(self, error: Exception) -> None:
        """Try again a little later, each time; say once what is waited for."""
        self.rest(0.2 * 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        told, kind = str(error), type(error).__name__
        told = told if told.startswith(kind) else f"{kind}: {told}"
        if told != self._told:
            self._told = told
            self._log.warning("cannot read", source=self._source, error_text=told)

    def opened(self) -> None:
        """Forget what failed: it works."""
        self._failures, self._told = 0, ""
