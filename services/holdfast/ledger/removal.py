"""A run whose retention is over is removed, with all that hangs on it; the audit stays.

    ended ──(its tenant's retention for its shape is over)──▶ found ──(nothing needs it)──▶ removed
                                                                └──(needed)──▶ found again in an hour

Takes no lock that work waits for: no tenant's, and of runs only those that have ended. Who starts one of
them again, or forks it, at the same moment holds it, and it is passed over; else it is gone, and they are
told that there is no such run. What needs a run is said by the function `remove_runs`, which reads the
retention itself.
"""

from dataclasses import dataclass
from typing import Final

from holdfast.kit.db import Database

AT_ONCE: Final = 200
"""Runs that are looked at together; those of many steps are fewer."""


@dataclass(frozen=True, slots=True)
class Removed:
    """How many runs were removed, and how many are found no longer, or later."""

    removed: int = 0
    put_off: int = 0


# For each tenant and shape, and from day to day, those that ended first: no run that is kept is passed by.
# A run of shape 0 may be of any: it is found when the shortest retention is over. In no order of tenants, so
# that one with much to remove does not keep others waiting.
FIND: Final = """
WITH RECURSIVE kept AS MATERIALIZED (
    SELECT t.tenant, k.shape::smallint AS shape, clock_timestamp() - make_interval(secs => k.keep_s) AS until
    FROM tenant t CROSS JOIN LATERAL (
        SELECT shape, keep_s FROM unnest(t.keep_s) WITH ORDINALITY AS u (keep_s, shape)
        WHERE keep_s IS NOT NULL
        UNION ALL SELECT 0, min(keep_s) FROM unnest(t.keep_s) AS keep_s
    ) k
    WHERE t.keep_s IS NOT NULL ORDER BY random()
), walk AS (
    SELECT k.tenant, k.shape, k.until, d.day FROM kept k CROSS JOIN LATERAL (
        SELECT s.day FROM run_state s
        WHERE s.tenant = k.tenant AND s.shape = k.shape AND s.day <= k.until::date + 1
              AND s.end_time IS NOT NULL
        ORDER BY s.day LIMIT 1
    ) d
    UNION ALL
    SELECT w.tenant, w.shape, w.until, d.day FROM walk w CROSS JOIN LATERAL (
        SELECT s.day FROM run_state s
        WHERE s.tenant = w.tenant AND s.shape = w.shape AND s.day > w.day AND s.day <= w.until::date + 1
              AND s.end_time IS NOT NULL
        ORDER BY s.day LIMIT 1
    ) d
)
SELECT s.run_id FROM walk w CROSS JOIN LATERAL (
    SELECT s.run_id FROM run_state s
    WHERE s.tenant = w.tenant AND s.shape = w.shape AND s.day = w.day AND s.end_time IS NOT NULL
          AND greatest(s.end_time, s.keep_from) < w.until
    ORDER BY greatest(s.end_time, s.keep_from) LIMIT $1
) s
LIMIT $1
"""

REMOVE: Final = "SELECT removed, put_off FROM remove_runs($1)"


async def remove(db: Database, *, limit: int = AT_ONCE) -> Removed:
    """Remove up to `limit` runs whose retention is over; call it again until it has found none.

    Repeatable, also at the same time: each passes over what another holds. A crash removes all or none.
    """
    return await remove_found(db, FIND, REMOVE, limit)


async def remove_found(db: Database, find: str, remove: str, limit: int) -> Removed:
    """Remove up to `limit` of what a query finds by their ids, with the statement that takes these ids."""
    async with db.connection() as connection:
        found = [row[0] for row in await connection.fetch(find, limit)]
    if not found:
        return Removed()

    async def once() -> Removed:
        async with db.transaction() as connection:
            return Removed(**dict(await connection.fetchrow(remove, found)))

    return await db.retrying(once)
