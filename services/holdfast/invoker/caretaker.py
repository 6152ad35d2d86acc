"""What the clock brings about: sessions kept alive or let go, deadlines, delays, cancels not yet heard."""

import asyncio
import time
from uuid import UUID

from holdfast.invoker.assignment import leased_assignment
from holdfast.invoker.board import Board
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.follow import Followers
from holdfast.invoker.settings import InvokerSettings
from holdfast.invoker.waiters import Waiters
from holdfast.kit.db import Database
from holdfast.kit.ids import new_id
from holdfast.kit.loops import Loop
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import due
from holdfast.ledger import session as ledger_session
from holdfast.ledger.notice import ENDED, READY, Notices
from holdfast.ledger.platform_move import Moved
from holdfast.ledger.position import cancels_asked
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import LeaseRef
from holdfast.v1 import work_service_pb2

SWEEP_SECONDS = 1.0
HOUSEKEEPING_SECONDS = 3600.0
PARTITIONS_AHEAD = 7

_log = logger("invoker")

Told = work_service_pb2.RunsLeased | work_service_pb2.CancelAsked | work_service_pb2.LeasesRevoked


class Caretaker:
    """The loops of an Invoker that act on time; any number of Invokers share the work."""

    def __init__(
        self,
        *,
        db: Database,
        board: Board,
        claimer: Claimer,
        waiters: Waiters,
        followers: Followers,
        notices: Notices,
        settings: InvokerSettings,
    ) -> None:
        self.invoker_id = new_id()
        self._db = db
        self._board = board
        self._claimer = claimer
        self._waiters = waiters
        self._followers = followers
        self._notices = notices
        self._settings = settings
        self._renewed: dict[UUID, float] = {}
        self._sweeper = Loop("sweep", self.sweep, interval=SWEEP_SECONDS)
        self.loops = [
            Loop("heartbeat", self.heartbeat, interval=settings.heartbeat_interval),
            self._sweeper,
            Loop("due", self.fire, interval=SWEEP_SECONDS),
            Loop("housekeeping", self.housekeeping, interval=HOUSEKEEPING_SECONDS),
        ]

    async def stream_broken(self, session_id: UUID) -> None:
        """Free a runner's leases after a short grace, unless it comes back."""
        grace = self._settings.broken_stream_grace
        _log.info("runner disconnected", session_id=str(session_id), grace_s=grace)
        async with self._db.connection() as connection:
            await ledger_session.expire_soon(connection, self.invoker_id, session_id, grace_s=grace)
        asyncio.get_running_loop().call_later(grace + 0.01, self._sweeper.wake)

    async def heartbeat(self) -> int:
        """Renew the sessions heard since the last time, and pass on what their runners have missed."""
        now = time.monotonic()
        heard = [
            each for each in self._board.sessions() if each.heard > self._renewed.get(each.session_id, 0.0)
        ]
        if not heard:
            return 0
        ids = [session.session_id for session in heard]
        async with self._db.connection() as connection:
            gone = await ledger_session.heartbeat(
                connection, self.invoker_id, ids, ttl_s=self._settings.lease_ttl
            )
            doubted = [each.session_id for each in heard if each.in_doubt]
            held = await ledger_session.held(connection, doubted) if doubted else []
            asked = await cancels_asked(connection, ids)
        self._renewed = dict.fromkeys(ids, now)
        for session in heard:
            if session.session_id in gone:  # its leases are over: it must come anew
                self._board.remove(session)
                session.close()
            elif session.session_id in doubted:
                session.in_doubt = False
        for lease in held:
            self._tell(lease.session_id, work_service_pb2.RunsLeased(assignments=[leased_assignment(lease)]))
        for cancel in asked:
            ref = work_service_pb2.LeaseRef(run_id=str(cancel.run_id), epoch=cancel.epoch)
            self._tell(cancel.session_id, work_service_pb2.CancelAsked(leases=[ref], reason=cancel.reason))
        return 0

    async def sweep(self) -> int:
        """Free the leases of sessions that have expired."""
        moved = await sweep(self._db)
        if moved.count:
            _log.warning(
                "leases freed",
                requeued=len(moved.requeued),
                dead_lettered=len(moved.dead_lettered),
                ended=len(moved.ended),
            )
        self.moved(moved)
        return moved.count

    async def fire(self) -> int:
        """End runs past their deadline and ready those whose delay is over."""
        fired = await due.fire(self._db)
        self.moved(fired.moved)
        for session_id, lease in fired.revoked:
            self._tell(session_id, work_service_pb2.LeasesRevoked(leases=[_ref(lease)]))
        return fired.fired

    def moved(self, moved: Moved) -> None:
        """Say what a verb has moved: here, and to the other Invokers."""
        if moved.pools:
            self._claimer.queued()
            self._notices.send(READY, moved.pools)
        changed = [*moved.ended, *moved.requeued]
        if changed:
            self._waiters.hint(changed)
            for run_id in changed:
                self._followers.hint(run_id)
            self._notices.send(ENDED, changed)

    async def housekeeping(self) -> int:
        """Make the partitions of the coming days."""
        async with self._db.connection() as connection:
            await connection.execute("SELECT make_partitions($1)", PARTITIONS_AHEAD)
        return 0

    def _tell(self, session_id: UUID, message: Told) -> None:
        session = self._board.get(session_id)
        if session is None:
            return
        match message:
            case work_service_pb2.RunsLeased():
                session.tell(work_service_pb2.LeaseResponse(leased=message))
            case work_service_pb2.CancelAsked():
                session.tell(work_service_pb2.LeaseResponse(cancel=message))
            case _:
                session.tell(work_service_pb2.LeaseResponse(revoked=message))


def _ref(lease: LeaseRef) -> work_service_pb2.LeaseRef:
    return work_service_pb2.LeaseRef(run_id=str(lease.run_id), epoch=lease.epoch)
