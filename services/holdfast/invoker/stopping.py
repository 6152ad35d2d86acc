"""Cancels and pauses are durable first, told to the runner second; the heartbeat repeats what is missed."""

from uuid import UUID

from holdfast.invoker.board import Board
from holdfast.invoker.hints import Hints
from holdfast.invoker.live import Live
from holdfast.kit.db import Database
from holdfast.ledger import cancel, pause
from holdfast.ledger.cancel import Cancelled


class Stopping:
    """Cancels, pauses and resumes runs wherever they are."""

    def __init__(self, db: Database, board: Board, live: Live, hints: Hints) -> None:
        self._db = db
        self._board = board
        self._live = live
        self._hints = hints

    async def cancel(self, tenant: str, run_id: UUID, reason: str) -> None:
        """Ask a run to stop. Repeatable; raises RunNotFound."""
        self.tell(run_id, await cancel.cancel(self._db, tenant, run_id, reason), reason)

    def tell(self, run_id: UUID, cancelled: Cancelled, reason: str) -> None:
        """Tell whom it concerns that a run was asked to stop."""
        self._hints.moved(cancelled.moved)
        holder = cancelled.holder
        if holder is None:
            return
        session = self._board.get(holder.session_id)
        if session is not None:
            session.cancel(run_id, holder.epoch, reason)
        elif holder.address:  # else it hears of it with its next heartbeat
            self._live.runner(holder.address).cancel(str(run_id), reason)

    async def pause(self, tenant: str, run_id: UUID, reason: str) -> None:
        """Hold a run. Repeatable; raises RunNotFound, RunEnded.

        A runner that another Invoker serves hears of it with its next heartbeat.
        """
        paused = await pause.pause(self._db, tenant, run_id, reason)
        holder = paused.holder
        session = None if holder is None else self._board.get(holder.session_id)
        if session is not None and holder is not None:
            session.pause(run_id, holder.epoch)

    async def resume(self, tenant: str, run_id: UUID) -> None:
        """Let a run go on. Repeatable; raises RunNotFound, RunEnded."""
        await pause.resume(self._db, tenant, run_id)
