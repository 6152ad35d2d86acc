"""A batch whose retention is over is removed: at once for whoever asks, its rows bit by bit after that.

    ended ──(its tenant's retention for batches is over)──▶ found ──(nothing needs it)──▶ gone ──▶ no row left
                                                              └──(needed)──▶ found again in an hour

Like the removal of runs (`removal`) it takes no lock that work waits for; what needs a batch is said by the
function `remove_batches`. The items' runs are removed as all runs are, before or after their batch.
"""

from typing import Final

from holdfast.kit.db import Database
from holdfast.ledger.removal import Removed, remove_found

AT_ONCE: Final = 100
"""Batches that are looked at together."""
ROWS_AT_ONCE: Final = 1000
"""Rows of each kind that are removed together."""

FIND: Final = """
WITH kept AS MATERIALIZED (
    SELECT tenant, clock_timestamp() - make_interval(secs => keep_batch_s) AS until FROM tenant
    WHERE keep_s IS NOT NULL AND keep_batch_s IS NOT NULL ORDER BY random()
)
SELECT b.batch_id FROM kept k CROSS JOIN LATERAL (
    SELECT b.batch_id FROM batch b
    WHERE b.tenant = k.tenant AND b.end_time IS NOT NULL AND greatest(b.end_time, b.keep_from) < k.until
    ORDER BY greatest(b.end_time, b.keep_from) LIMIT $1
) b
LIMIT $1
"""
REMOVE: Final = "SELECT removed, put_off FROM remove_batches($1)"
REMOVE_ROWS: Final = "SELECT remove_batch_rows($1)"


async def remove_batches(db: Database, *, limit: int = AT_ONCE) -> Removed:
    """Remove up to `limit` batches whose retention is over; call it again until it has found none.

    Repeatable, also at the same time: each passes over what another holds. A crash removes all or none.
    """
    return await remove_found(db, FIND, REMOVE, limit)


async def remove_batch_rows(db: Database, *, most: int = ROWS_AT_ONCE) -> int:
    """Remove up to `most` rows of each kind of a batch that is gone; return 0 once there is nothing left.

    Repeatable, also at the same time. A crash removes all of these rows or none.
    """

    async def once() -> int:
        async with db.transaction() as connection:
            return int(await connection.fetchval(REMOVE_ROWS, most))

    return await db.retrying(once)
