"""Where runs stand, many in one query: for those who follow streams."""

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


_POSITIONS: Final = """
SELECT s.run_id, s.tenant, s.status, s.epoch, s.last_sequence, coalesce(r.address, '') AS address
FROM run_state s LEFT JOIN lease l ON l.run_id = s.run_id
LEFT JOIN runner_session r ON r.session_id = l.session_id
WHERE s.run_id = ANY($1::uuid[])
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
