"""Queued runs reach runners with credit: one claim at a time per process, for all its runners together."""

from holdfast.invoker.assignment import leased_assignment
from holdfast.invoker.board import Board
from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.ledger.claim import Demand, claim

MAX_CLAIM = 128
POLL_SECONDS = 1.0


class Claimer:
    """Claims what the connected runners have credit for, when woken and once a second."""

    def __init__(self, db: Database, board: Board) -> None:
        self._db = db
        self._board = board
        self._emptied = True
        self.loop = Loop("claim", self.run_once, interval=POLL_SECONDS)

    def queued(self) -> None:
        """Claim soon: there is new work."""
        self._emptied = False
        self.loop.wake()

    def credited(self) -> None:
        """Claim soon if the last claim left something: there is new credit."""
        if not self._emptied:
            self.loop.wake()

    async def run_once(self) -> int:
        """Claim one group and push it; return how many runs were leased."""
        reserved = self._board.reserve(self._board.sessions(), MAX_CLAIM)
        demands = [
            Demand(session_id=session_id, intents=session.intents, slots=slots)
            for session_id, slots in reserved.items()
            if (session := self._board.get(session_id)) is not None
        ]
        if not demands:
            return 0
        left = dict(reserved)
        try:
            leases = await claim(self._db, demands)
        except BaseException:
            self._board.doubt(reserved)
            for session_id, slots in left.items():
                self._board.give_back(session_id, slots)
            raise
        for lease in leases:
            left[lease.session_id] -= 1
            session = self._board.get(lease.session_id)
            if session is not None:  # else its stream just broke: it gets the lease when it comes back
                session.lease(leased_assignment(lease))
        for session_id, slots in left.items():
            self._board.give_back(session_id, slots)
        self._emptied = len(leases) < sum(reserved.values())
        return len(leases)
