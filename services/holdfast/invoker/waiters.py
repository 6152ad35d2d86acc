"""Whoever waits for a run's end is woken by a hint and answered from the ledger."""

import asyncio
import time
from collections.abc import Collection, Iterable
from uuid import UUID

from holdfast.kit.db import Database
from holdfast.kit.errors import ShuttingDown
from holdfast.kit.loops import Loop
from holdfast.ledger.inspect import get_many, outcomes
from holdfast.ledger.values import RunView

POLL_SECONDS = 1.0


class Waiters:
    """Futures of runs' ends. A hint only starts a read, one for all hinted; the ledger's word decides."""

    def __init__(self, db: Database) -> None:
        self._seat = db.seat()
        self._waiting: dict[UUID, list[asyncio.Future[RunView]]] = {}
        self._hinted: set[UUID] = set()
        self._polled = time.monotonic()
        self._closed = False
        self.loop = Loop("ends", self.run_once, interval=POLL_SECONDS, eager=False, max_backoff=POLL_SECONDS)

    def hint(self, run_ids: Iterable[UUID]) -> None:
        """Say that runs may have ended; those nobody waits for cost nothing."""
        known = [run_id for run_id in run_ids if run_id in self._waiting]
        if known:
            self._hinted.update(known)
            self.loop.wake()

    async def ended(self, run_id: UUID, within: float, *, look: bool = False) -> RunView | None:
        """Wait until the run has ended, and return it; None if it has not after `within` seconds.

        With `look` the ledger is asked soon: what is known of the run may be older than its end. Raises
        ShuttingDown when this process ends first.
        """
        if self._closed:
            raise _leaving()
        future: asyncio.Future[RunView] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(future)
        if look:
            self.hint((run_id,))
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
            return None
        finally:
            futures = self._waiting.get(run_id)
            if futures is not None and future in futures:
                futures.remove(future)
                if not futures:
                    del self._waiting[run_id]

    async def run_once(self) -> int:
        """Answer for the hinted runs that have ended; once a second for all, since hints may be lost."""
        if not self._waiting:
            return 0
        asked, self._hinted = self._hinted, set()
        due = time.monotonic() - self._polled >= POLL_SECONDS / 2  # rounds vary a little
        async with self._seat.connection() as connection:
            found: Collection[UUID] = asked
            if due:
                found = (await outcomes(connection, list(self._waiting))).keys()
                self._polled = time.monotonic()
            views = await get_many(connection, list(found)) if found else {}
        ended = [view for view in views.values() if view.outcome is not None]
        for view in ended:
            for future in self._waiting.pop(view.run_id, ()):
                if not future.done():
                    future.set_result(view)
        return len(ended)

    def close(self) -> None:
        """Let those who still wait, and those who come, call another Invoker."""
        self._closed = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(_leaving())


def _leaving() -> ShuttingDown:
    return ShuttingDown("This invoker is ending; wait at another.")
