"""Whoever reads a run to go on with it must hold its lease, now."""

from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import Fenced, RunNotFound
from holdfast.ledger.domain.status import LEASED, RunStatus

_HELD: Final = """
SELECT tenant, day, status, epoch, last_position, ordering_key, handed_off, mail_last
FROM run_state WHERE run_id = $1
"""


async def held(connection: Connection, run_id: UUID, epoch: int) -> Any:
    """Read where a run stands, for the holder of its lease. Raises `RunNotFound` and `Fenced`."""
    row = await connection.fetchrow(_HELD, run_id)
    facts = {"run_id": str(run_id)}
    if row is None:
        raise RunNotFound("There is no such run.", facts=facts)
    if row["epoch"] != epoch or RunStatus(row["status"]) not in LEASED:
        raise Fenced(f"The lease of epoch {epoch} has ended.", facts=facts)
    return row
