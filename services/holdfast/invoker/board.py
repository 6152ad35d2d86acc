"""The board of runners connected to this Invoker: who can take what, and what each must be told."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from holdfast.ledger.values import ServedIntent
from holdfast.v1 import work_service_pb2

_ASSIGNMENTS_PER_MESSAGE = 64


@dataclass(slots=True, eq=False)
class RunnerSession:
    """One connected runner: its credit, and the messages that wait to be sent to it."""

    session_id: UUID
    address: str
    intents: tuple[ServedIntent, ...]
    credit: int = 0
    heard: float = field(default_factory=time.monotonic)
    # A call that may have leased runs to it had no answer: ask the ledger what it holds.
    in_doubt: bool = False
    draining: bool = False
    closed: bool = False
    _outgoing: list[work_service_pb2.LeaseResponse] = field(default_factory=list)
    _assignments: list[work_service_pb2.Assignment] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def lease(self, assignment: work_service_pb2.Assignment) -> None:
        """Push a run to the runner; those pushed in one tick go out as one message."""
        self._assignments.append(assignment)
        self._changed.set()

    def tell(self, message: work_service_pb2.LeaseResponse) -> None:
        """Push any other message to the runner."""
        self._outgoing.append(message)
        self._changed.set()

    def close(self) -> None:
        """End the runner's stream after what is already waiting. Repeatable."""
        self.closed = True
        self._changed.set()

    async def messages(self) -> AsyncIterator[work_service_pb2.LeaseResponse]:
        """Yield what the runner must be told, until the session is closed."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            outgoing, self._outgoing = self._outgoing, []
            assignments, self._assignments = self._assignments, []
            for message in outgoing:
                yield message
            for start in range(0, len(assignments), _ASSIGNMENTS_PER_MESSAGE):
                part = assignments[start : start + _ASSIGNMENTS_PER_MESSAGE]
                yield work_service_pb2.LeaseResponse(leased=work_service_pb2.RunsLeased(assignments=part))
            if self.closed and not self._outgoing and not self._assignments:
                return


class Board:
    """All runners connected to this process, found by session and by pool."""

    def __init__(self) -> None:
        self._sessions: dict[UUID, RunnerSession] = {}
        self._pools: dict[str, dict[UUID, RunnerSession]] = {}

    def add(self, session: RunnerSession) -> None:
        """Put a runner on the board; one that reconnects takes the place of its old stream."""
        old = self._sessions.get(session.session_id)
        if old is not None:
            self.remove(old)
            old.close()
        self._sessions[session.session_id] = session
        for served in session.intents:
            for pool in served.pools:
                self._pools.setdefault(pool, {})[session.session_id] = session

    def remove(self, session: RunnerSession) -> bool:
        """Take a runner off the board; False if another stream of the same runner has its place."""
        if self._sessions.get(session.session_id) is not session:
            return False
        del self._sessions[session.session_id]
        for served in session.intents:
            for pool in served.pools:
                members = self._pools.get(pool)
                if members is not None:
                    members.pop(session.session_id, None)
                    if not members:
                        del self._pools[pool]
        return True

    def get(self, session_id: UUID) -> RunnerSession | None:
        """Return the runner of a session, if it is connected here."""
        return self._sessions.get(session_id)

    def sessions(self) -> list[RunnerSession]:
        """Return all connected runners."""
        return list(self._sessions.values())

    def serves(self, pool: str) -> bool:
        """Say whether a connected runner takes runs of a pool."""
        return pool in self._pools

    def serving(self, pool: str) -> list[RunnerSession]:
        """Return the runners that take runs of a pool and have credit."""
        return [each for each in self._pools.get(pool, {}).values() if each.credit > 0 and not each.draining]

    def reserve(self, sessions: Iterable[RunnerSession], most: int) -> dict[UUID, int]:
        """Take up to `most` credit of these runners, the idlest first; give back what is not used."""
        reserved: dict[UUID, int] = {}
        for session in sorted(sessions, key=lambda each: -each.credit):
            slots = min(session.credit, most)
            if slots <= 0 or session.closed or session.draining:
                continue
            session.credit -= slots
            most -= slots
            reserved[session.session_id] = slots
        return reserved

    def give_back(self, session_id: UUID, slots: int) -> None:
        """Return reserved credit that was not used."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.credit += slots

    def doubt(self, session_ids: Iterable[UUID]) -> None:
        """Mark runners that may hold leases nobody has told them of."""
        for session_id in session_ids:
            session = self._sessions.get(session_id)
            if session is not None:
                session.in_doubt = True

    def drain(self, grace: float) -> None:
        """Tell every runner to open a stream elsewhere, and give them no more work."""
        for session in self._sessions.values():
            session.draining = True
            draining = work_service_pb2.SessionDraining()
            draining.grace.FromMilliseconds(int(grace * 1000))
            session.tell(work_service_pb2.LeaseResponse(draining=draining))
