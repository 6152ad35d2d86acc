"""The locks of a batch: its tenant's queue, then its row; all that moves items takes both in this order."""

from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.batch_view import unknown
from holdfast.ledger.release import lock_tenants

LOCK: Final = "SELECT * FROM batch WHERE batch_id = $1 AND tenant = $2 FOR NO KEY UPDATE"
APPLYING: Final = "INSERT INTO batch_applying (batch_id, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING"


async def hold(connection: Connection, tenant: str, batch_id: UUID) -> Any:
    """Lock the tenant's queue, then the batch, and return its row. Raises `BatchNotFound`."""
    await lock_tenants(connection, [tenant])
    return await hold_row(connection, tenant, batch_id)


async def hold_row(connection: Connection, tenant: str, batch_id: UUID) -> Any:
    """Lock a batch of which no item moves yet, and return its row. Raises `BatchNotFound`."""
    row = await connection.fetchrow(LOCK, batch_id, tenant)
    if row is None:
        raise unknown(batch_id)
    return row


async def needs_applying(connection: Connection, row: Any) -> None:
    """Say of a locked batch that something of it is to be judged, applied or undone."""
    await connection.execute(APPLYING, row["batch_id"], row["tenant"])
