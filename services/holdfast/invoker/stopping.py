"""A cancel is durable first and told to the runner second; what the telling misses, the heartbeat repeats."""

from uuid import UUID

from holdfast.invoker.board import Board
from holdfast.invoker.caretaker import Caretaker
from holdfast.invoker.live import Live
from holdfast.kit.db import Database
from holdfast.ledger import cancel
from holdfast.v1 import work_service_pb2


class Stopping:
    """Cancels runs wherever they are."""

    def __init__(self, db: Database, board: Board, live: Live, caretaker: Caretaker) -> None:
        self._db = db
        self._board = board
        self._live = live
        self._caretaker = caretaker

    async def cancel(self, tenant: str, run_id: UUID, reason: str) -> None:
        """Ask a run to stop. Repeatable; raises RunNotFound."""
        cancelled = await cancel.cancel(self._db, tenant, run_id, reason)
        self._caretaker.moved(cancelled.moved)
        holder = cancelled.holder
        if holder is None:
            return
        session = self._board.get(holder.session_id)
        if session is not None:
            session.tell(cancel_message(run_id, holder.epoch, reason))
        else:
            self._live.runner(holder.address).cancel(str(run_id), reason)


def cancel_message(run_id: UUID, epoch: int, reason: str) -> work_service_pb2.LeaseResponse:
    """Tell a runner to stop a run."""
    ref = work_service_pb2.LeaseRef(run_id=str(run_id), epoch=epoch)
    return work_service_pb2.LeaseResponse(cancel=work_service_pb2.CancelAsked(leases=[ref], reason=reason))
