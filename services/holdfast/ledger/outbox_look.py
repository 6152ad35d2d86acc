"""One look of a dispatcher, in one statement: it says that it lives, and hears whether there is work."""

import uuid
from dataclasses import dataclass
from typing import Final

from holdfast.kit.db import Connection


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether the session still lives, effects wait for a time or a dispatcher, and one fell silent."""

    alive: bool
    waiting: bool
    expired: bool


LOOK: Final = """
WITH beat AS (
    UPDATE dispatcher_session SET expire_time = clock_timestamp() + make_interval(secs => $2)
    WHERE session_id = $1 AND expire_time > clock_timestamp() RETURNING true AS alive
)
SELECT coalesce((SELECT alive FROM beat), false) AS alive,
       EXISTS (SELECT FROM effect_due) AS waiting,
       EXISTS (SELECT FROM dispatcher_session WHERE expire_time <= now() AND session_id <> $1) AS expired
"""


async def look(connection: Connection, session_id: uuid.UUID, ttl_s: float) -> Seen:
    """Prolong a session and look. Repeatable; what is there to do is looked at again by who does it."""
    return Seen(*(await connection.fetchrow(LOOK, session_id, ttl_s)).values())
