"""A session that was not used for its tenant's retention of shape Service is forgotten, after its runs.

    saved ──(not saved again for so long)──▶ found ──(no run of it is left)──▶ forgotten
                                               └──(a run is left)──▶ found again in an hour

Under the tenant's lock, as all that changes its sessions; for a few of them at a time.
"""

from itertools import groupby
from typing import Final

from holdfast.kit.db import Database
from holdfast.ledger.removal import Removed

AT_ONCE: Final = 200
"""Sessions that are looked at together."""

FIND: Final = """
WITH kept AS MATERIALIZED (
    SELECT tenant, clock_timestamp() - make_interval(secs => keep_service_s) AS until FROM tenant
    WHERE keep_s IS NOT NULL AND keep_service_s IS NOT NULL ORDER BY random()
)
SELECT k.tenant, s.session_id FROM kept k CROSS JOIN LATERAL (
    SELECT s.session_id FROM session s
    WHERE s.tenant = k.tenant AND greatest(s.update_time, s.keep_from) < k.until
    ORDER BY greatest(s.update_time, s.keep_from) LIMIT $1
) s
LIMIT $1
"""
REMOVE: Final = "SELECT removed, put_off FROM remove_sessions($1, $2)"


async def remove_sessions(db: Database, *, limit: int = AT_ONCE) -> Removed:
    """Forget up to `limit` sessions whose retention is over; call it again until it has found none.

    Repeatable, also at the same time. A crash forgets all of a tenant's or none.
    """
    async with db.connection() as connection:
        rows = [(row["tenant"], row["session_id"]) for row in await connection.fetch(FIND, limit)]
    removed = put_off = 0
    for tenant, found in groupby(sorted(rows), key=lambda row: row[0]):
        one = await _remove_of(db, tenant, [session_id for _, session_id in found])
        removed, put_off = removed + one.removed, put_off + one.put_off
    return Removed(removed, put_off)


async def _remove_of(db: Database, tenant: str, session_ids: list[str]) -> Removed:
    async def once() -> Removed:
        async with db.transaction() as connection:
            return Removed(**dict(await connection.fetchrow(REMOVE, tenant, session_ids)))

    return await db.retrying(once)
