"""Keeps batches moving: chunk after chunk of items becomes runs, as many at a time as each may have.

Woken by what makes room (runs that end on runners connected here), by people's words, by items whose pause is
over, and by the look of the `Caretaker`; it never polls by itself.
"""

import asyncio
from typing import Final
from uuid import UUID

from holdfast.invoker.batch_compose import Composer
from holdfast.invoker.board import Board
from holdfast.invoker.hints import Hints
from holdfast.invoker.metrics import InvokerMetrics
from holdfast.invoker.seating import Seats
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.db import Database
from holdfast.kit.errors import LedgerUnavailable
from holdfast.kit.loops import Loop
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.batch_advance import Active, Advanced, active, advance

UNASKED_S: Final = 30.0
"""After which it looks though nobody has woken it."""
LONGEST_BACKOFF_S: Final = 1.0
GATHER_S: Final = 0.02
"""How long ends are gathered before room is filled again, so that a chunk is worth its transaction."""
ENOUGH: Final = 0.25
"""The share of what is in flight that need not be waited for any longer once it has ended."""
_FIRST: Final = UUID(int=0)

_log: Final = logger("batches")


class BatchDriver:
    """The loop of an Invoker that does for batches what is next; any number of Invokers share the work."""

    def __init__(
        self, db: Database, board: Board, hints: Hints, settings: InvokerSettings, metrics: InvokerMetrics
    ) -> None:
        self._db = db
        self._board = board
        self._hints = hints
        self._metrics = metrics
        self._composer = Composer(max_attempts=settings.max_attempts)
        self._in_flight = 0
        self._ended = 0
        self._rested = 0.0
        self.loop = Loop(
            "batches", self.run_once, interval=UNASKED_S, max_backoff=LONGEST_BACKOFF_S, eager=False
        )

    def ended(self, runs: int) -> None:
        """Hear that runs have ended here, of batches or others; there may be room."""
        if not self._in_flight or not runs:
            return
        self._ended += runs
        enough = self._ended >= self._in_flight * ENOUGH
        rest = self._rested - asyncio.get_running_loop().time()
        self.loop.wake_within(max(0.0 if enough else GATHER_S, rest))

    async def run_once(self) -> int:
        """Do one step for each batch that is going on; returns how many items moved."""
        began = asyncio.get_running_loop().time()
        self._ended = 0
        moved, in_flight, after = 0, 0, _FIRST
        waits: list[float] = []
        while True:
            async with self._db.connection() as connection:
                batches = await active(connection, after=after)
            for each in batches:
                done = await self._advanced(each)
                moved += done.items
                in_flight += done.in_flight
                waits += [0.0] if done.again else [] if done.wait_s is None else [max(0.0, done.wait_s)]
                after = each.batch_id
            if not batches:
                break
        self._in_flight = in_flight
        # As long again: most of it was under the tenants' locks, which the ends of runs wait for.
        now = asyncio.get_running_loop().time()
        self._rested = now + min(now - began, LONGEST_BACKOFF_S)
        if waits:
            self.loop.wake_within(min(waits))
        return moved

    async def _advanced(self, which: Active) -> Advanced:
        """Do one step for a batch; one whose step fails does not hold up the others."""
        seats = Seats(self._board)
        try:
            done = await advance(self._db, which, self._composer.compose, seats.reserve)
        except BaseException as error:
            seats.doubt()
            if not isinstance(error, Exception) or isinstance(error, LedgerUnavailable):
                raise
            _log.error("batch not advanced", error=error, batch_id=str(which.batch_id))
            return Advanced()
        seats.fill(done.leases)
        self._metrics.leased("placed", done.leases)
        self._hints.queued(done.pools)
        return done
