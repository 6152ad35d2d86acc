"""A cancel is durable first and told to the runner second; what the telling misses, the heartbeat repeats."""

from uuid import UUID

from holdfast.invoker.board import Board
from holdfast.invoker.hints import Hints
from holdfast.invoker.live import Live
from holdfast.kit.db import Database
from holdfast.ledger import cancel


class Stopping:
    """Cancels runs wherever they are."""

    def __init__(self, db: Database, board: Board, live: Live, hints: Hints) -> None:
        self._db = db
        self._board = board
        self._live = live
        self._hints = hints

    async def cancel(self, tenant: str, run_id: UUID, reason: str) -> None:
        """Ask a run to stop. Repeatable; raises RunNotFound."""
        cancelled = await cancel.cancel(self._db, tenant, run_id, reason)
        self._hints.moved(cancelled.moved)
        holder = cancelled.holder
        if holder is None:
            return
        session = self._board.get(holder.session_id)
        if session is not None:
            session.cancel(run_id, holder.epoch, reason)
        else:
            self._live.runner(holder.address).cancel(str(run_id), reason)
