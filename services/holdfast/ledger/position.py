"""Where runs stand, many in one query: for those who follow streams and those who pass on cancels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.domain.status import RunStatus


@dataclass(frozen=True, slots=True)
class Position:
    """A run's place: under which lease, how far its transcript is committed, and where its runner is."""

    tenant: str
    status: RunStatus
    epoch: int
    last_sequence: int
    address: str


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """A leased run that someone asked to cancel."""

    session_id: UUID
    run_id: UUID
    epoch: int
    reason: str


_POSITIONS: Final = """
SELECT s.run_id, s.tenant, s.status, s.epoch, s.last_sequence, coalesce(r.address, '') AS address
FROM run_state s LEFT JOIN lease l ON l.run_id = s.run_id
LEFT JOIN runner_session r ON r.session_id = l.session_id
WHERE s.run_id = ANY($1::uuid[])
"""

# Served by run_state_cancel_asked, which holds only the few that are being cancelled.
_CANCELS: Final = """
SELECT l.session_id, s.run_id, l.epoch, coalesce(s.cancel_reason, '') AS reason
FROM run_state s JOIN lease l ON l.run_id = s.run_id
WHERE s.cancel_requested AND s.status IN (2, 4) AND l.session_id = ANY($1::uuid[])
"""


async def positions(connection: Connection, run_ids: Sequence[UUID]) -> dict[UUID, Position]:
    """Return where runs stand; unknown ones are left out."""
    rows = await connection.fetch(_POSITIONS, list(run_ids))
    return {
        row["run_id"]: Position(
            row["tenant"], RunStatus(row["status"]), row["epoch"], row["last_sequence"], row["address"]
        )
        for row in rows
    }


async def cancels_asked(connection: Connection, session_ids: Sequence[UUID]) -> list[CancelAsked]:
    """Return the runs these sessions hold that someone asked to cancel."""
    rows = await connection.fetch(_CANCELS, list(session_ids))
    return [CancelAsked(row["session_id"], row["run_id"], row["epoch"], row["reason"]) for row in rows]
