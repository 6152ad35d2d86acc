"""What this process may send, and until when: its session in the ledger, kept alive by heartbeats.

When the heartbeats fail the session runs out here no later than in the ledger, so nothing is started that
another dispatcher may have taken over.
"""

import uuid
from typing import Final

from holdfast.kit.clock import Clock
from holdfast.kit.db import Database
from holdfast.kit.ids import new_id
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import outbox_session
from holdfast.ledger.outbox_look import Seen, look

_log: Final = logger("session")


class Session:
    """One dispatcher's session after another; `session_id` is the current one."""

    def __init__(self, db: Database, clock: Clock, ttl_s: float) -> None:
        self.session_id = uuid.UUID(int=0)
        self._db = db
        self._clock = clock
        self._ttl_s = ttl_s
        self._valid_until = 0.0

    async def open(self) -> None:
        """Open a new session."""
        asked = self._clock.monotonic()
        session_id = new_id()
        async with self._db.connection() as connection:
            await outbox_session.open_session(connection, session_id, self._ttl_s)
        self.session_id, self._valid_until = session_id, asked + self._ttl_s

    async def look(self) -> Seen:
        """Prolong the session and look for work; open a new one if it was lost, and with it its leases."""
        asked = self._clock.monotonic()
        async with self._db.connection() as connection:
            seen = await look(connection, self.session_id, self._ttl_s)
        if seen.alive:
            self._valid_until = asked + self._ttl_s
        else:
            _log.warning("session lost", session_id=str(self.session_id))
            await self.open()
        return seen

    def holds(self, session_id: uuid.UUID) -> bool:
        """Say whether a call may be started under a lease of this session."""
        return session_id == self.session_id and self._clock.monotonic() < self._valid_until

    async def close(self) -> None:
        """End the session; what it still holds is swept by others. Repeatable."""
        self._valid_until = 0.0
        async with self._db.connection() as connection:
            await outbox_session.close_session(connection, self.session_id)
