"""What a tenant's queue looks like, at a cost that does not depend on how much is in it.

Counters that the verbs keep, the first rows of indexes, and counts that stop at `MOST`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from holdfast.kit.db import Connection, Database
from holdfast.ledger.domain.status import RunStatus

MOST: Final = 1000
"""Parked and dead-lettered runs are counted up to here."""


@dataclass(frozen=True, slots=True)
class TenantQueue:
    """A tenant's queue as a whole."""

    tenant: str
    queued: int
    oldest_age: timedelta | None
    in_flight: int
    parked: int
    dead_lettered: int
    refused_queue_full: int
    refused_rate: int
    throttled: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class IntentQueue:
    """The runs of an intent that a runner could take now."""

    intent: str
    queued: int
    oldest_age: timedelta


QUEUES: Final = f"""
SELECT t.tenant, t.queued, t.in_flight, t.refused_queue_full, t.refused_rate, clock_timestamp() AS now,
       (SELECT clock_timestamp() - s.create_time FROM run_state s
        WHERE s.tenant = t.tenant AND s.status = {RunStatus.QUEUED:d} ORDER BY s.seq LIMIT 1) AS oldest_age,
       (SELECT count(*) FROM (
            SELECT FROM run_state s
            WHERE s.tenant = t.tenant AND s.status = {RunStatus.PARKED:d} LIMIT {MOST}) s) AS parked,
       (SELECT count(*) FROM (
            SELECT FROM run_state s
            WHERE s.tenant = t.tenant AND s.status = {RunStatus.DEAD_LETTERED:d} LIMIT {MOST}
        ) s) AS dead_lettered,
       EXISTS (SELECT FROM tenant_pool p
               WHERE p.tenant = t.tenant AND (p.capped OR p.held) AND p.ready > 0)
       OR coalesce((SELECT true FROM throttled u WHERE u.tenant = t.tenant LIMIT 1), false) AS throttled
FROM tenant t WHERE t.tenant = ANY($1::text[])
"""  # noqa: S608 - numbers of ours

# A pool is an intent, or an intent and a version (`intent@version`). Of each the oldest run of each rank is
# looked up, for the order of a pool is by rank first.
INTENTS: Final = """
WITH waiting AS MATERIALIZED (
    SELECT pool, ready FROM tenant_pool WHERE tenant = $1 AND ready > 0 ORDER BY ready DESC, pool LIMIT $2
)
SELECT split_part(w.pool, '@', 1) AS intent, sum(w.ready)::bigint AS queued,
       max(clock_timestamp() - s.create_time) AS oldest_age
FROM waiting w CROSS JOIN LATERAL (
    SELECT min(s.create_time) AS create_time
    FROM generate_series(-9, 0) AS ranks (rank) CROSS JOIN LATERAL (
        SELECT run_id FROM ready r
        WHERE r.pool = w.pool AND r.tenant = $1 AND r.rank = ranks.rank ORDER BY r.seq LIMIT 1
    ) r CROSS JOIN LATERAL (SELECT create_time FROM run_state WHERE run_state.run_id = r.run_id LIMIT 1) s
) s
WHERE s.create_time IS NOT NULL
GROUP BY 1 ORDER BY 2 DESC, 1
"""

ADD_REFUSED: Final = """
WITH refused AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS u (tenant, queue_full, rate)
), locked AS MATERIALIZED (
    SELECT tenant FROM tenant WHERE tenant = ANY($1::text[]) ORDER BY tenant FOR NO KEY UPDATE
)
UPDATE tenant t
SET refused_queue_full = t.refused_queue_full + r.queue_full, refused_rate = t.refused_rate + r.rate
FROM refused r
WHERE t.tenant = r.tenant AND t.tenant = ANY(ARRAY(SELECT tenant FROM locked))
"""


async def queues(connection: Connection, tenants: Sequence[str]) -> dict[str, TenantQueue]:
    """Return the queues of tenants; unknown ones are left out."""
    rows = await connection.fetch(QUEUES, list(tenants))
    return {row["tenant"]: TenantQueue(**dict(row)) for row in rows}


async def intents(connection: Connection, tenant: str, *, limit: int = 100) -> list[IntentQueue]:
    """Return the parts of a tenant's queue by intent, the longest first; `limit` pools are looked at."""
    return [IntentQueue(**dict(row)) for row in await connection.fetch(INTENTS, tenant, limit)]


async def add_refused(db: Database, refused: Mapping[str, tuple[int, int]]) -> None:
    """Add how many calls of each tenant were refused: because its queue was full, because of its rate.

    Not repeatable. Tenants are locked in order.
    """
    columns: list[list[Any]] = [
        list(refused),
        [queue_full for queue_full, _ in refused.values()],
        [rate for _, rate in refused.values()],
    ]

    async def once() -> None:
        async with db.transaction() as connection:
            await connection.execute(ADD_REFUSED, *columns)

    await db.retrying(once)
