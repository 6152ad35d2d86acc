"""Figures of the whole ledger for those who watch it, at a cost that does not depend on how much is in it.

The first rows of indexes, and counts that stop at a bound. What is not bounded by an index is counted by the
processes as it happens, and is not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.kit.db import Connection

MOST: Final = 10_000
"""Whatever is counted is counted up to here."""
MOST_QUEUES: Final = 1000
"""Queues (a tenant's part of a pool) that are looked at."""
MOST_AGED: Final = 50
"""Of these, how many are asked how long their oldest run has waited."""
MOST_DESTINATIONS: Final = 256


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """A tenant's runs of an intent that a runner could take now; their oldest's age in seconds, if known."""

    intent: str
    tenant: str
    queued: int
    oldest_s: float | None


@dataclass(frozen=True, slots=True)
class DueEffects:
    """Effects that may be sent now, by the scheme of their destinations, and how long the oldest waits."""

    scheme: str
    due: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many there are, up to `MOST`, and by how many seconds the first is late: 0 if it is not."""

    count: int
    late_s: float


# The longest of the queues whose turn comes: what a cap or a breaker holds back waits for no runner.
QUEUES: Final = """
WITH queue AS MATERIALIZED (
    SELECT pool, tenant, ready FROM tenant_pool
    WHERE ready > 0 AND NOT capped AND NOT held ORDER BY pool, turn LIMIT $1
), longest AS MATERIALIZED (
    SELECT pool, tenant FROM queue ORDER BY ready DESC, pool, tenant LIMIT $2
), aged AS MATERIALIZED (
    SELECT l.pool, l.tenant, extract(epoch FROM clock_timestamp() - min(s.create_time))::float8 AS oldest_s
    FROM longest l CROSS JOIN generate_series(-9, 0) AS ranks (rank) CROSS JOIN LATERAL (
        SELECT run_id FROM ready r
        WHERE r.pool = l.pool AND r.tenant = l.tenant AND r.rank = ranks.rank ORDER BY r.seq LIMIT 1
    ) r CROSS JOIN LATERAL (SELECT create_time FROM run_state WHERE run_state.run_id = r.run_id LIMIT 1) s
    GROUP BY l.pool, l.tenant
)
SELECT split_part(q.pool, '@', 1) AS intent, q.tenant, sum(q.ready)::bigint AS queued,
       max(a.oldest_s) AS oldest_s
FROM queue q LEFT JOIN aged a ON a.pool = q.pool AND a.tenant = q.tenant
GROUP BY 1, 2
"""

# Destination by destination, the first due effect of each; how many are due is counted up to a bound.
DUE_EFFECTS: Final = """
WITH RECURSIVE walk AS (
    (SELECT destination_id, due_time, 1 AS n FROM effect_due ORDER BY destination_id, due_time LIMIT 1)
    UNION ALL
    SELECT next.destination_id, next.due_time, walk.n + 1
    FROM walk CROSS JOIN LATERAL (
        SELECT d.destination_id, d.due_time FROM effect_due d
        WHERE d.destination_id > walk.destination_id ORDER BY d.destination_id, d.due_time LIMIT 1
    ) next
    WHERE walk.n < $1
)
SELECT split_part(d.url, ':', 1) AS scheme, sum(e.due)::bigint AS due,
       max(extract(epoch FROM clock_timestamp() - w.due_time))::float8 AS oldest_s
FROM walk w
CROSS JOIN LATERAL (SELECT url FROM destination WHERE destination_id = w.destination_id LIMIT 1) d
CROSS JOIN LATERAL (
    SELECT count(*) AS due FROM (
        SELECT FROM effect_due WHERE destination_id = w.destination_id AND due_time <= clock_timestamp()
        ORDER BY due_time LIMIT $2
    ) e
) e
WHERE w.due_time <= clock_timestamp()
GROUP BY 1
"""

BREAKERS: Final = """
SELECT breaker, count(*) AS count FROM (
    SELECT breaker FROM destination_state WHERE breaker <> 1 ORDER BY destination_id LIMIT $1
) tripped GROUP BY breaker
"""

TIMERS: Final = """
SELECT greatest(0, extract(epoch FROM clock_timestamp() - least(
    (SELECT due_time FROM timer WHERE kind < 3 ORDER BY due_time LIMIT 1),
    (SELECT due_time FROM timer WHERE kind = 3 ORDER BY due_time LIMIT 1)
)))::float8
"""

APPROVALS: Final = """
SELECT (SELECT count(*) FROM (
            SELECT FROM approval WHERE next_time IS NOT NULL ORDER BY next_time LIMIT $1) a) AS count,
       greatest(0, extract(epoch FROM clock_timestamp() - (
            SELECT next_time FROM approval WHERE next_time IS NOT NULL ORDER BY next_time LIMIT 1
       )))::float8 AS late_s
"""


async def queue_depths(connection: Connection) -> Sequence[QueueDepth]:
    """Return how much waits for runners, of the queues that could be served now."""
    return [QueueDepth(*row) for row in await connection.fetch(QUEUES, MOST_QUEUES, MOST_AGED)]


async def timer_lag(connection: Connection) -> float:
    """Return by how many seconds the most overdue deadline, delay or wait has not been acted on."""
    lag: float | None = await connection.fetchval(TIMERS)
    return lag or 0.0


async def approvals_waiting(connection: Connection) -> Waiting:
    """Return how many approvals nobody has decided, and how late their next reminder or timeout is."""
    row = await connection.fetchrow(APPROVALS, MOST)
    return Waiting(row["count"], row["late_s"] or 0.0)


async def due_effects(connection: Connection) -> Sequence[DueEffects]:
    """Return what waits to be sent, though it may be sent: behind breakers, rates, or busy dispatchers."""
    return [DueEffects(*row) for row in await connection.fetch(DUE_EFFECTS, MOST_DESTINATIONS, MOST)]


async def tripped_breakers(connection: Connection) -> dict[int, int]:
    """Return how many breakers are in each state but closed, by the number of `BreakerState`."""
    return {row["breaker"]: row["count"] for row in await connection.fetch(BREAKERS, MOST)}
