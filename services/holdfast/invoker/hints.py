"""What moved is told to whoever waits for it, here and in other processes; correctness never needs it."""

import uuid
from collections.abc import Callable, Iterable, Sequence

from holdfast.invoker.board import Board
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.follow import Followers
from holdfast.invoker.waiters import Waiters
from holdfast.kit.db import Database
from holdfast.kit.listener import Listener
from holdfast.ledger.id import ledger_id
from holdfast.ledger.inbox import INBOX
from holdfast.ledger.notice import ENDED, MAIL, READY, Notices, keys_of
from holdfast.ledger.platform_move import Moved


class Hints:
    """Passes on, both ways, what is said of queues and of ends."""

    def __init__(
        self, board: Board, claimer: Claimer, waiters: Waiters, followers: Followers, notices: Notices
    ) -> None:
        self._board = board
        self._claimer = claimer
        self._waiters = waiters
        self._followers = followers
        self._notices = notices
        self._also: list[Callable[[Sequence[str]], None]] = []

    def also(self, queued: Callable[[Sequence[str]], None]) -> None:
        """Have somebody else told of pools that got work, wherever they got it."""
        self._also.append(queued)

    def queued(self, pools: Sequence[str]) -> None:
        """Say that runs wait in these pools: wake whoever serves them, here and elsewhere."""
        if not pools:
            return
        if any(self._board.serves(pool) for pool in pools):
            self._claimer.queued()
        self._tell(pools)
        self._notices.send(READY, pools)

    def moved(self, moved: Moved) -> None:
        """Say what a verb has moved: here, and to the other Invokers."""
        self.queued(moved.pools)
        self._notices.send(MAIL, moved.mail)
        changed = [*moved.ended, *moved.requeued]
        if changed:
            self.left(changed)
            self._notices.send(ENDED, changed)

    def left(self, run_ids: Iterable[uuid.UUID]) -> None:
        """Wake those who wait here for these runs."""
        run_ids = list(run_ids)
        self._waiters.hint(run_ids)
        self._followers.hint(run_ids)

    def listen(self, db: Database, mail: Callable[[], None], inbox: Callable[[], None]) -> Listener:
        """Listen to the other processes until the listener is closed.

        `mail` hears that signals wait, `inbox` that events do.
        """
        return db.listen(
            {READY: self._ready, ENDED: self._ended, MAIL: lambda _: mail(), INBOX: lambda _: inbox()}
        )

    def _ready(self, payload: str) -> None:
        self._tell(keys_of(payload))
        if not payload or any(self._board.serves(pool) for pool in keys_of(payload)):
            self._claimer.queued()

    def _tell(self, pools: Sequence[str]) -> None:
        for queued in self._also:
            queued(pools)

    def _ended(self, payload: str) -> None:
        self.left(map(ledger_id, keys_of(payload)))
