"""Which of a batch's failed items somebody means: by the reason of their failure, and by their keys."""

from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.batch_view import ItemFilter
from holdfast.ledger.domain.batch import ItemStatus

MEANT: Final = """
    i.batch_id = $1 AND ($2 = '' OR i.failure ->> 'reason' = $2)
    AND (cardinality($3::text[]) = 0 OR i.index = ANY(ARRAY(
        SELECT k.index FROM batch_input k WHERE k.batch_id = $1 AND k.key = ANY($3))))
"""
"""Of `batch_item i`; $1 is the batch."""
COUNT: Final = f"SELECT count(*) FROM batch_item i WHERE i.status = $4 AND {MEANT}"  # noqa: S608


async def count(connection: Connection, batch_id: UUID, which: ItemFilter, status: ItemStatus) -> int:
    """Return how many of those that stand there are meant."""
    n: int = await connection.fetchval(COUNT, batch_id, which.failure_reason, list(which.keys), int(status))
    return n
