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
        self._interactive: set[asyncio.Future[RunView]] = set()
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

    async def ended(
        self, run_id: UUID, within: float, *, look: bool = False, or_handed_off: bool = False
    ) -> RunView | None:
        """Wait until the run has ended, and return it; None if it has not after `within` seconds.

        With `or_handed_off` a move to the background ends the wait too, if the run may make one. With `look`
        the ledger is asked soon: what is known of the run may be older than its end. Raises ShuttingDown when
        this process ends first.
        """
        if self._closed:
            raise _leaving()
        future: asyncio.Future[RunView] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(future)
        if or_handed_off:
            self._interactive.add(future)
        if look:
            self.hint((run_id,))
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
            return None
        finally:
            self._interactive.discard(future)
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
                found = (await outcomes(connection, list(self._waiting))).keys() | self._may_hand_off()
                self._polled = time.monotonic()
            views = await get_many(connection, list(found)) if found else {}
        for view in views.values():
            if view.handed_off and view.outcome is None:
                self._let_go(view)
        ended = [view for view in views.values() if view.outcome is not None]
        for view in ended:
            for future in self._waiting.pop(view.run_id, ()):
                if not future.done():
                    future.set_result(view)
        return len(ended)

    def _may_hand_off(self) -> set[UUID]:
        """Name the runs that some would leave to the background."""
        if not self._interactive:
            return set()
        return {run_id for run_id, all_of in self._waiting.items() if self._interactive.intersection(all_of)}

    def _let_go(self, view: RunView) -> None:
        """Answer those who need not wait for a run in the background."""
        for future in self._interactive.intersection(self._waiting.get(view.run_id, ())):
            if not future.done():
                future.set_result(view)

    def close(self) -> None:
        """Let those who still wait, and those who come, call another Invoker."""
        self._closed = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(_leaving())


def _leaving() -> ShuttingDown:
    return ShuttingDown("This invoker is ending; wait at another.")
