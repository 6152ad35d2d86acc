"""What the clock brings about: sessions let go, deadlines, delays, waits, schedules, removals."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from prometheus_client import CollectorRegistry

from holdfast.invoker.board import Board
from holdfast.invoker.hints import Hints
from holdfast.invoker.metrics import InvokerMetrics
from holdfast.invoker.runner_session import RunnerSession
from holdfast.invoker.scheduling import Scheduling
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import SessionUnknown
from holdfast.kit.ids import new_id
from holdfast.kit.loops import Loop
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import batch_removal, due, due_wake, held, orphan, removal, session_removal, throttle
from holdfast.ledger import session as ledger_session
from holdfast.ledger.asked import Asked, asked_of
from holdfast.ledger.look import look
from holdfast.ledger.partition import drop_history, make_partitions
from holdfast.ledger.sweep import sweep

LOOK_SECONDS = 1.05
UNASKED_SECONDS = 30.0
"""After which each loop does its work though the look has found nothing for it."""
HOUSEKEEPING_SECONDS = 3600.0
REMOVAL_SECONDS = 30.0
PARTITIONS_AHEAD = 7

_log = logger("invoker")


class Caretaker:
    """The loops of an Invoker that act on time; any number of Invokers share the work."""

    def __init__(
        self,
        db: Database,
        board: Board,
        hints: Hints,
        settings: InvokerSettings,
        scheduling: Scheduling,
        *,
        others: Mapping[str, Callable[[], None]],
        metrics: InvokerMetrics | None = None,
    ) -> None:
        """Take what wakes others whom a look finds work for, by its name in `Seen`."""
        self._metrics = metrics or InvokerMetrics(CollectorRegistry())
        self.invoker_id = new_id()
        self._db = db
        self._board = board
        self._hints = hints
        self._settings = settings
        self._turn = ""
        # After an outage of the ledger leases are renewed at once, or runners that live would lose theirs.
        beat = settings.heartbeat_interval / 2
        self._renewing = asyncio.Lock()
        self._sweeper = _acting("sweep", self.sweep)
        self._due = _acting("due", self.fire)
        self._waker = _acting("wake", self.wake)
        self._orphans = _acting("orphans", self.cancel_orphans)
        self._pools = _acting("held pools", self.look_at_held)
        self.schedules = _acting("schedules", scheduling.fire)
        self._woken = {
            "expired": self._sweeper.wake,
            "due": self._due.wake,
            "woken": self._waker.wake,
            "orphaned": self._orphans.wake,
            "held": self._pools.wake,
            "scheduled": self.schedules.wake,
            **others,
        }
        self.heartbeats = Loop("heartbeat", self.heartbeat, interval=beat, max_backoff=min(beat, 1.0))
        self.retention = Loop("retention", self.retain, interval=HOUSEKEEPING_SECONDS)
        self.removal = Loop("removal", self.remove, interval=REMOVAL_SECONDS)
        self.loops = [
            Loop("look", self.look, interval=LOOK_SECONDS, max_backoff=LOOK_SECONDS),
            self._sweeper,
            self._due,
            self._waker,
            self._orphans,
            self._pools,
            self.schedules,
            Loop("housekeeping", self.housekeeping, interval=HOUSEKEEPING_SECONDS),
            self.retention,
            self.removal,
        ]

    async def stream_broken(self, session_id: UUID) -> None:
        """Free a runner's leases after a short grace, unless it comes back."""
        grace = self._settings.broken_stream_grace
        _log.info("runner disconnected", session_id=str(session_id), grace_s=grace)
        async with self._db.connection() as connection:
            await ledger_session.expire_soon(connection, self.invoker_id, session_id, grace_s=grace)
        asyncio.get_running_loop().call_later(grace + 0.01, self._sweeper.wake)

    async def heartbeat(self) -> int:
        """Renew the sessions that the look has not, as while it fails, or when it has ended."""
        late = time.monotonic() - min(self._settings.heartbeat_interval, 2 * LOOK_SECONDS)
        if any(session.renewed < min(session.heard, late) for session in self._board.sessions()):
            async with self._db.transaction() as connection:
                renewed, now = await self._renew(connection)
            _renewed(renewed, now)
        return 0

    async def _renew(self, connection: Connection) -> tuple[list[RunnerSession], float]:
        """Renew the sessions heard since the last time, and pass on what their runners have missed.

        Return them with when that was: it counts once it is committed.
        """
        async with self._renewing:  # a doubt is settled once
            return await self._renew_heard(connection)

    async def _renew_heard(self, connection: Connection) -> tuple[list[RunnerSession], float]:
        now = time.monotonic()
        heard = [session for session in self._board.sessions() if session.heard > session.renewed]
        if not heard:
            return [], now
        ids = [session.session_id for session in heard]
        doubts = [(session, session.doubt()) for session in heard if session.in_doubt]
        gone = await ledger_session.heartbeat(
            connection, self.invoker_id, ids, ttl_s=self._settings.lease_ttl
        )
        asked = await asked_of(connection, ids)
        leases = []
        if doubts:
            leases = await ledger_session.held(connection, [session.session_id for session, _ in doubts])
        for session in heard:
            if session.session_id in gone and self._board.remove(session):
                session.close(SessionUnknown("The session's leases are over; open it anew."))
        for session, doubt in doubts:
            if session.session_id not in gone:
                session.settle([lease for lease in leases if lease.session_id == session.session_id], doubt)
        self._pass_on(asked)
        return heard, now

    def _pass_on(self, asked: Sequence[Asked]) -> None:
        """Tell runners again what they may have missed."""
        for each in asked:
            told = self._board.get(each.session_id)
            if told is None:
                continue
            if each.cancel is None:
                told.pause(each.run_id, each.epoch)
            else:
                told.cancel(each.run_id, each.epoch, each.cancel)

    async def look(self) -> int:
        """Look for all loops and renew the runners' sessions, in one transaction; wake those with work.

        The sessions last: a slow look holds none of their rows, and `heartbeat` renews them meanwhile.
        """
        async with self._db.transaction() as connection:
            sessions = [session.session_id for session in self._board.sessions()]
            seen = await look(connection, pools=self._board.wanting(), session_ids=sessions)
            renewed, now = await self._renew(connection)
        _renewed(renewed, now)
        for name, wake in self._woken.items():
            if getattr(seen, name):
                wake()
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
            self._metrics.freed.labels("requeued").inc(len(moved.requeued))
            self._metrics.freed.labels("ended").inc(len(moved.ended))
            self._metrics.ended.labels("DEAD_LETTERED").inc(len(moved.dead_lettered))
        self._hints.moved(moved)
        return moved.count

    async def fire(self) -> int:
        """End runs past their deadline and ready those whose delay is over."""
        fired = await due.fire(self._db)
        self._metrics.fired.inc(fired.fired)
        self._hints.moved(fired.moved)
        for session_id, lease in fired.revoked:
            session = self._board.get(session_id)
            if session is not None:
                session.revoke(lease)
        return fired.fired

    async def wake(self) -> int:
        """Wake parked runs whose time has come."""
        woken = await due_wake.wake_due(self._db, after=self._turn)
        self._metrics.fired.inc(woken.count)
        self._turn = woken.after
        self._hints.queued(woken.pools)
        return woken.count

    async def cancel_orphans(self) -> int:
        """End runs that wait and that their parent's end has asked to stop."""
        moved = await orphan.cancel_orphans(self._db)
        self._hints.moved(moved)
        return moved.count

    async def look_at_held(self) -> int:
        """Have claims look again at pools, and at runs of users, that something has held back."""
        tenants, pools = await held.look_again(self._db)
        users, more = await throttle.look_again(self._db)
        self._hints.queued([*pools, *more])
        return tenants + users

    async def housekeeping(self) -> int:
        """Make the partitions of the coming days."""
        async with self._db.connection() as connection:
            await make_partitions(connection, PARTITIONS_AHEAD)
        return 0

    async def retain(self) -> int:
        """Drop a day of history that is older than what is kept; 0 once there is none that can be dropped."""
        if not self._settings.history_days:
            return 0
        async with self._db.connection() as connection:
            day = await drop_history(connection, self._settings.history_days)
        if day is None:
            return 0
        _log.info("history dropped", day=day.isoformat())
        return 1

    async def remove(self) -> int:
        """Remove some of the runs, batches and sessions whose retention is over; 0 once there is none."""
        runs = await removal.remove(self._db)
        batches = await batch_removal.remove_batches(self._db)
        sessions = await session_removal.remove_sessions(self._db)
        self._metrics.removed.inc(runs.removed)
        self._metrics.batches_removed.inc(batches.removed)
        self._metrics.sessions_removed.inc(sessions.removed)
        found = sum(done.removed + done.put_off for done in (runs, batches, sessions))
        return found + await batch_removal.remove_batch_rows(self._db)


def _renewed(sessions: Sequence[RunnerSession], when: float) -> None:
    for session in sessions:
        session.renewed = max(session.renewed, when)


def _acting(name: str, work: Callable[[], Awaitable[int]]) -> Loop:
    return Loop(name, work, interval=UNASKED_SECONDS, max_backoff=LOOK_SECONDS)
