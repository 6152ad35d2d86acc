"""A dispatcher holds its leases while it sends heartbeats; one that fell silent loses them all."""

import uuid
from typing import Any, Final

from holdfast.kit.errors import SessionUnknown

_OPEN: Final = """
-- Open a dispatcher's session.
INSERT INTO dispatcher_session (session_id, expire_time)
VALUES ($1, clock_timestamp() + make_interval(secs => $2))
"""

_CLOSE: Final = """
-- End a session; what it still holds is for the next sweep.
UPDATE dispatcher_session SET expire_time = '-infinity' WHERE session_id = $1
"""


async def open_session(connection: Any, session_id: uuid.UUID, ttl_s: float) -> None:
    """Open a session that lives for `ttl_s` seconds from now and from each look (`outbox_look`)."""
    await connection.execute(_OPEN, session_id, ttl_s)


async def close_session(connection: Any, session_id: uuid.UUID) -> None:
    """End a session; what it still holds is given to others by a sweep. Repeatable."""
    await connection.execute(_CLOSE, session_id)


def unknown(session_id: uuid.UUID) -> SessionUnknown:
    """Return the refusal of what is done under a session that is no more."""
    return SessionUnknown("The dispatcher's session has expired.", facts={"session_id": str(session_id)})
