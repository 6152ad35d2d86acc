"""A connection on which no request begins in time is closed: uvicorn itself waits for headers forever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_for(seconds: float) -> type[H11Protocol]:
    """Return the protocol whose senders have so long for the headers of each request."""

    class Impatient(H11Protocol):
        """HTTP/1.1 with a limit on the time for headers."""

        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Begin to wait for a request."""
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            """Take some of a request."""
            began = self.cycle
            super().data_received(data)
            if self.cycle is not began:
                self._end_wait()
            elif self._limit is None and _is_over(began):
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """End."""
            self._end_wait()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._limit = self.loop.call_later(seconds, self._give_up)

        def _end_wait(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

        def _give_up(self) -> None:
            self._limit = None
            self.transport.close()

    return Impatient


def _is_over(cycle: Any) -> bool:
    """Say whether there was a request, and it is answered."""
    return cycle is not None and bool(cycle.response_complete)
