"""Queued runs reach runners with credit: one claim at a time per process, for all its runners together."""

import time

from prometheus_client import CollectorRegistry

from holdfast.invoker.board import Board
from holdfast.invoker.metrics import InvokerMetrics
from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.ledger.claim import Demand, claim

MAX_CLAIM = 128
UNASKED_SECONDS = 30.0


class Claimer:
    """Claims what the connected runners have credit for, woken by hints and by the caretaker's look."""

    def __init__(self, db: Database, board: Board, metrics: InvokerMetrics | None = None) -> None:
        self._db = db
        self._metrics = metrics or InvokerMetrics(CollectorRegistry())
        self._board = board
        self._emptied = True
        self.loop = Loop("claim", self.run_once, interval=UNASKED_SECONDS, max_backoff=1.0)

    def queued(self) -> None:
        """Claim soon: there is new work."""
        self._emptied = False
        self.loop.wake()

    def credited(self) -> None:
        """Claim soon if the last claim left something: there is new credit."""
        if not self._emptied:
            self.loop.wake()

    async def run_once(self) -> int:
        """Claim one group and push it; return how many runs were leased, 0 if these runners have them all."""
        reserved = self._board.reserve(self._board.sessions(), MAX_CLAIM)
        wanted = reserved.total
        if not wanted:
            return 0
        began = time.perf_counter()
        self._emptied = True  # unless there is more work meanwhile, or more than was wanted
        try:
            leases = await claim(
                self._db,
                [
                    Demand(session.session_id, session.intents, slots)
                    for session, slots in reserved.slots.items()
                ],
            )
        except BaseException:
            self._emptied = False
            reserved.doubt()
            raise
        for lease in leases:
            reserved.spend(lease)
        reserved.give_back()
        self._metrics.claim_seconds.observe(time.perf_counter() - began)
        self._metrics.leased("claimed", leases)
        if len(leases) < wanted:
            return 0
        self._emptied = False
        return len(leases)
