"""Hints from other processes save waiting for the next poll; none of them is needed for correctness."""

import uuid

from holdfast.invoker.board import Board
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.follow import Followers
from holdfast.invoker.waiters import Waiters
from holdfast.kit.db import Database
from holdfast.kit.listener import Listener
from holdfast.ledger.notice import ENDED, READY, keys_of


class Hints:
    """Passes on what other processes say of queues and ends."""

    def __init__(self, board: Board, claimer: Claimer, waiters: Waiters, followers: Followers) -> None:
        self._board = board
        self._claimer = claimer
        self._waiters = waiters
        self._followers = followers

    def listen(self, db: Database) -> list[Listener]:
        """Listen until the listeners are closed."""
        return [db.listen(READY, self._ready), db.listen(ENDED, self._ended)]

    def _ready(self, payload: str) -> None:
        if not payload or any(self._board.serves(pool) for pool in keys_of(payload)):
            self._claimer.queued()

    def _ended(self, payload: str) -> None:
        run_ids = [uuid.UUID(key) for key in keys_of(payload)] if payload else []
        self._waiters.hint(run_ids)
        for run_id in run_ids:
            self._followers.hint(run_id)
