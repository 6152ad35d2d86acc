"""What is asked of runs that are executed: to stop, or to be given back. Many in one query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection


@dataclass(frozen=True, slots=True)
class Asked:
    """A leased run that somebody has cancelled, with the reason, or has paused: then `cancel` is None."""

    session_id: UUID
    run_id: UUID
    epoch: int
    cancel: str | None


# Served by run_state_cancel_asked and run_state_pause_asked, which hold only the few that are still executed.
_ASKED: Final = """
SELECT l.session_id, s.run_id, l.epoch, coalesce(s.cancel_reason, '') AS cancel
FROM run_state s JOIN lease l ON l.run_id = s.run_id
WHERE s.cancel_requested AND s.status IN (2, 4) AND l.session_id = ANY($1::uuid[])
UNION ALL
SELECT l.session_id, s.run_id, l.epoch, NULL
FROM run_state s JOIN lease l ON l.run_id = s.run_id
WHERE s.paused IS NOT NULL AND s.status IN (2, 4) AND l.session_id = ANY($1::uuid[])
"""


async def asked_of(connection: Connection, session_ids: Sequence[UUID]) -> list[Asked]:
    """Return what is asked of the runs that these sessions hold; a run that is both is there twice."""
    return [Asked(*row.values()) for row in await connection.fetch(_ASKED, list(session_ids))]
