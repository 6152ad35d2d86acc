"""Queued runs reach runners with credit: one claim at a time per process, for all its runners together.

Tenants whose rows others hold locked, for as long as hundreds of runs go in, are claimed from beside that
once they are free: nobody else's run waits for them.
"""

import time
from collections.abc import Sequence
from uuid import UUID

from prometheus_client import CollectorRegistry

from holdfast.invoker.board import Board, Reservation
from holdfast.invoker.metrics import InvokerMetrics
from holdfast.invoker.runner_session import RunnerSession
from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.ledger.claim import Demand, claim_free, claim_locked
from holdfast.ledger.values import Leased, ServedIntent

MAX_CLAIM = 128
UNASKED_SECONDS = 30.0


class Claimer:
    """Claims what the connected runners have credit for, woken by hints and by the caretaker's look."""

    def __init__(self, db: Database, board: Board, metrics: InvokerMetrics | None = None) -> None:
        self._db = db
        self._metrics = metrics or InvokerMetrics(CollectorRegistry())
        self._board = board
        self._emptied = True
        self._passed_by: dict[tuple[ServedIntent, ...], None] = {}
        self._owed = False
        self.loop = Loop("claim", self.run_once, interval=UNASKED_SECONDS, max_backoff=1.0)
        self.waiting = Loop("claim-locked", self.wait_once, interval=UNASKED_SECONDS, max_backoff=1.0)

    def queued(self) -> None:
        """Claim soon: there is new work."""
        self._emptied = False
        self.loop.wake()

    def credited(self) -> None:
        """Claim soon if the last claim left something: there is new credit."""
        if self._owed:
            self.waiting.wake()
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
            claimed = await claim_free(self._db, _demands(reserved))
        except BaseException:
            self._emptied = False
            reserved.doubt()
            raise
        self._push(reserved, claimed.leased, began)
        for alike in claimed.passed_by:
            self._passed_by[alike[0].intents] = None
            self.waiting.wake()
        if len(claimed.leased) < wanted:
            return 0
        self._emptied = False
        return len(claimed.leased)

    async def wait_once(self) -> int:
        """Claim from tenants that were passed by, and push it; return how many runs were leased.

        Credit is taken when they are free: until then others use it. If they have used it all, some of the
        next is kept for these from the start, so that they are not passed by for ever.
        """
        seats = self._seats()
        if seats is None:
            self._owed = bool(self._passed_by)
            return 0
        intents = seats.intents
        began = time.perf_counter()
        try:
            leased = await claim_locked(self._db, intents, seats, seats.most)
        except BaseException:
            self._passed_by[intents] = None
            seats.reserved.doubt()
            raise
        self._owed = not seats.reserved.total
        if self._owed:
            self._passed_by[intents] = None
        elif leased:
            self.queued()  # and perhaps there is more
        self._push(seats.reserved, leased, began)
        return len(leased)

    def _seats(self) -> "_Seats | None":
        """Take out who was passed by and has credit now; runners that have left are owed nothing."""
        for intents in tuple(self._passed_by):
            seats = _Seats(self._board, intents, late=not self._owed)
            if seats.most or not seats.sessions():
                del self._passed_by[intents]
            if seats.most:
                return seats
        return None

    def _push(self, reserved: Reservation, leased: Sequence[Leased], began: float) -> None:
        for lease in leased:
            reserved.spend(lease)
        reserved.give_back()
        self._metrics.claim_seconds.observe(time.perf_counter() - began)
        self._metrics.leased("claimed", leased)


class _Seats:
    """The credit for one claim that waits: reserved when that first asks (`late`), or half of it now."""

    def __init__(self, board: Board, intents: tuple[ServedIntent, ...], *, late: bool) -> None:
        self.intents = intents
        self._board = board
        self._asked = not late
        credit = min(MAX_CLAIM, sum(each.credit - board.kept(each) for each in self.sessions()))
        self.most = credit if late else -(-credit // 2)
        """How many at most."""
        self.reserved = board.reserve((), 0) if late else board.reserve(self.sessions(), self.most)

    def __call__(self) -> dict[UUID, int]:
        """Return the seats by session; the same each time."""
        if not self._asked:
            self._asked = True
            self.reserved = self._board.reserve(self.sessions(), self.most)
        return {session.session_id: slots for session, slots in self.reserved.slots.items()}

    def sessions(self) -> list[RunnerSession]:
        """Return the connected runners that serve these intents."""
        return [each for each in self._board.sessions() if each.intents == self.intents]


def _demands(reserved: Reservation) -> list[Demand]:
    return [Demand(each.session_id, each.intents, slots) for each, slots in reserved.slots.items()]
