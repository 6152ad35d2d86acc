"""Whoever waits for a run's end is woken by a hint and answered from the ledger."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.ledger.inspect import get_many
from holdfast.ledger.values import RunView

POLL_SECONDS = 1.0


class Waiters:
    """Futures of runs' ends. A hint only starts a read, one for all hinted; the ledger's word decides."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[UUID, list[asyncio.Future[RunView]]] = {}
        self._hinted: set[UUID] = set()
        self.loop = Loop("ends", self.run_once, interval=POLL_SECONDS, eager=False)

    def hint(self, run_ids: Iterable[UUID]) -> None:
        """Say that runs may have ended; those nobody waits for cost nothing."""
        known = [run_id for run_id in run_ids if run_id in self._waiting]
        if known:
            self._hinted.update(known)
            self.loop.wake()

    async def ended(self, run_id: UUID, within: float) -> RunView | None:
        """Wait until the run has ended, and return it; None if it has not after `within` seconds."""
        future: asyncio.Future[RunView] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(future)
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
        """Read the hinted runs, or without a hint all that are waited for; answer for those that ended."""
        asked = list(self._hinted or self._waiting)
        self._hinted = set()
        if not asked:
            return 0
        async with self._db.connection() as connection:
            views = await get_many(connection, asked)
        ended = 0
        for run_id, view in views.items():
            if view.outcome is None:
                continue
            ended += 1
            for future in self._waiting.pop(run_id, ()):
                if not future.done():
                    future.set_result(view)
        return ended
