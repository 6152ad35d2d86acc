"""What every way out of a lease or a queue shares: counters, rows of the queue, and the lane's next run.

All of it runs inside the caller's transaction, after `lock_tenants`: the tenant's row is the mutex of its
queue, so nothing of ready, blocked, lane, lease and tenant_pool of that tenant moves meanwhile. Nothing here
touches `run_state` beyond reading it; the caller moves the run's status, before or after.

Order of calls: lock_tenants, the caller's own statements, release_leases or unqueue, enqueue, pass_lanes.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.ledger import held, throttle

__all__ = [
    "Place",
    "enqueue",
    "lock_tenants",
    "lock_tenants_of",
    "pass_lanes",
    "release_leases",
    "unqueue",
]

Connection = Any  # an `asyncpg.Connection` inside a transaction; asyncpg publishes no types


@dataclass(frozen=True, slots=True)
class Place:
    """A run and what says where it waits: columns of `run_state`."""

    run_id: UUID
    tenant: str
    pool: str
    rank: int
    seq: int
    ordering_key: str


_LOCK: Final = """
SELECT tenant FROM tenant WHERE tenant = ANY($1::text[]) ORDER BY tenant FOR NO KEY UPDATE
"""

_LOCK_OF: Final = """
SELECT tenant FROM tenant
WHERE tenant = ANY(ARRAY(SELECT DISTINCT s.tenant FROM unnest($1::uuid[]) AS u (run_id)
                         JOIN run_state s ON s.run_id = u.run_id))
ORDER BY tenant FOR NO KEY UPDATE
"""

# The leases' rows, the runs' timers, and the count of what each tenant has in flight. Here and below rows
# are found by an array of keys, or by their place (ctid) after a lookup by key: these tables are empty one
# moment and full the next, and a join planned for the empty one would compare each row with each.
_RELEASE: Final = """
WITH gone AS (
    DELETE FROM lease WHERE run_id = ANY($1::uuid[]) RETURNING tenant, capped_intent, capped_user
), timers AS (
    DELETE FROM timer WHERE run_id = ANY($2::uuid[])
), freed AS (
    SELECT tenant, count(*) AS n,
           array_agg(DISTINCT capped_intent) FILTER (WHERE capped_intent IS NOT NULL) AS capped_intents,
           array_agg(capped_user) FILTER (WHERE capped_user IS NOT NULL) AS capped_users
    FROM gone GROUP BY tenant
)
UPDATE tenant SET in_flight = in_flight - freed.n FROM freed WHERE tenant.tenant = freed.tenant
RETURNING tenant.tenant, (in_flight + freed.n >= max_in_flight AND in_flight < max_in_flight) AS uncapped,
          freed.capped_intents, freed.capped_users
"""

_UNCAP: Final = """
UPDATE tenant_pool SET capped = false WHERE tenant = ANY($1::text[]) AND capped RETURNING pool, ready
"""

_UNQUEUE: Final = """
WITH run AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::text[])
        AS u (run_id, tenant, pool, rank, seq, ordering_key)
), unready AS (
    DELETE FROM ready WHERE ctid = ANY(ARRAY(
        SELECT r.place FROM run CROSS JOIN LATERAL (
            SELECT ctid AS place FROM ready
            WHERE (pool, tenant, rank, seq) = (run.pool, run.tenant, run.rank, run.seq) LIMIT 1
        ) r
    ))
    RETURNING pool, tenant
), unblocked AS (
    DELETE FROM blocked WHERE ctid = ANY(ARRAY(
        SELECT b.place FROM run CROSS JOIN LATERAL (
            SELECT ctid AS place FROM blocked
            WHERE (tenant, ordering_key, seq) = (run.tenant, run.ordering_key, run.seq) LIMIT 1
        ) b
    ))
), timers AS (
    DELETE FROM timer WHERE run_id = ANY($1::uuid[])
), pools AS (
    UPDATE tenant_pool p SET ready = p.ready - d.n
    FROM (SELECT pool, tenant, count(*) AS n FROM unready GROUP BY pool, tenant) d
    WHERE p.pool = d.pool AND p.tenant = d.tenant
)
UPDATE tenant SET queued = queued - d.n
FROM (SELECT tenant, count(*) AS n FROM run GROUP BY tenant) d WHERE tenant.tenant = d.tenant
RETURNING (SELECT true FROM throttled t WHERE t.tenant = tenant.tenant LIMIT 1) AS throttles
"""

# A delayed run gets its timer instead of its place among the ready, and so does one that a person holds.
_ENQUEUE: Final = """
WITH run AS MATERIALIZED (
    SELECT u.*, (SELECT s.paused IS NOT NULL FROM run_state s WHERE s.run_id = u.run_id) AS paused
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::float8[])
        AS u (run_id, tenant, pool, rank, seq, delay)
), delayed AS (
    INSERT INTO timer (run_id, kind, due_time)
    SELECT run_id, 2,
           CASE WHEN paused THEN 'infinity' ELSE clock_timestamp() + make_interval(secs => delay) END
    FROM run WHERE delay > 0 OR paused
    ON CONFLICT (run_id, kind) DO UPDATE SET due_time = excluded.due_time
), placed AS (
    INSERT INTO ready (pool, tenant, rank, seq, run_id)
    SELECT pool, tenant, rank, seq, run_id FROM run WHERE delay <= 0 AND NOT paused
), counted AS (
    UPDATE tenant SET queued = queued + d.n
    FROM (SELECT tenant, count(*) AS n FROM run GROUP BY tenant) d WHERE tenant.tenant = d.tenant
    RETURNING tenant.tenant, in_flight >= max_in_flight AS capped
)
INSERT INTO tenant_pool AS p (pool, tenant, ready, capped)
SELECT run.pool, run.tenant, count(*), bool_or(counted.capped)
FROM run JOIN counted ON counted.tenant = run.tenant
WHERE run.delay <= 0 AND NOT run.paused GROUP BY run.pool, run.tenant
ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready, capped = excluded.capped
RETURNING pool
"""

# Of each lane whose holder leaves, the oldest run behind it becomes the holder. It is ready now, unless it
# has a delay of its own, whose timer makes it ready.
_HAND_OVER: Final = """
WITH leaving AS MATERIALIZED (
    SELECT u.tenant, u.ordering_key, l.lane
    FROM unnest($1::text[], $2::text[], $3::uuid[]) AS u (tenant, ordering_key, run_id) CROSS JOIN LATERAL (
        SELECT ctid AS lane, holder FROM lane
        WHERE lane.tenant = u.tenant AND lane.ordering_key = u.ordering_key LIMIT 1
    ) l
    WHERE l.holder = u.run_id
), next AS MATERIALIZED (
    SELECT v.lane, b.place, b.run_id
    FROM leaving v LEFT JOIN LATERAL (
        SELECT ctid AS place, run_id FROM blocked
        WHERE tenant = v.tenant AND ordering_key = v.ordering_key ORDER BY seq LIMIT 1
    ) b ON true
), handed AS (
    UPDATE lane SET holder = next.run_id FROM next WHERE lane.ctid = next.lane AND next.run_id IS NOT NULL
), closed AS (
    DELETE FROM lane WHERE ctid = ANY(ARRAY(SELECT lane FROM next WHERE run_id IS NULL))
), unblocked AS (
    DELETE FROM blocked WHERE ctid = ANY(ARRAY(SELECT place FROM next WHERE place IS NOT NULL))
), promoted AS (
    INSERT INTO ready (pool, tenant, rank, seq, run_id)
    SELECT s.pool, s.tenant, s.rank, s.seq, s.run_id FROM next JOIN run_state s ON s.run_id = next.run_id
    WHERE NOT EXISTS (SELECT FROM timer t WHERE t.run_id = next.run_id AND t.kind = 2)
    RETURNING pool, tenant
)
INSERT INTO tenant_pool AS p (pool, tenant, ready, capped)
SELECT promoted.pool, promoted.tenant, count(*), bool_or(t.in_flight >= t.max_in_flight)
FROM promoted JOIN tenant t ON t.tenant = promoted.tenant GROUP BY promoted.pool, promoted.tenant
ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready, capped = excluded.capped
RETURNING pool
"""


async def lock_tenants(connection: Connection, tenants: Collection[str]) -> None:
    """Lock the tenants' queues until the end of the transaction, in order; the first thing a verb does.

    Waits. What is read in a later statement is current; what was read in an earlier one is not.
    """
    await connection.fetch(_LOCK, list(tenants))


async def lock_tenants_of(connection: Connection, run_ids: Collection[UUID]) -> None:
    """Lock the queues of the runs' tenants, as `lock_tenants`; unknown runs lock nothing."""
    await connection.fetch(_LOCK_OF, list(run_ids))


async def release_leases(
    connection: Connection, run_ids: Sequence[UUID], *, ended: Collection[UUID] | None = None
) -> list[str]:
    """Delete the runs' leases, give back the tenants' slots, and drop the timers of those that ended.

    Returns the pools in which runs wait that a cap has held back until now. `ended` names
    those of the runs whose deadline no longer matters; left out, all. A run without a lease is passed over,
    its timers dropped all the same.
    """
    rows = await connection.fetch(_RELEASE, list(run_ids), list(run_ids if ended is None else ended))
    uncapped = [row["tenant"] for row in rows if row["uncapped"]]
    parts = [(row["tenant"], intent) for row in rows for intent in row["capped_intents"] or ()]
    users = [(row["tenant"], user) for row in rows for user in row["capped_users"] or ()]
    woken = set(await held.free(connection, parts)) if parts else set()
    if users:
        woken |= set(await throttle.free(connection, users))
    if uncapped:
        woken |= {row["pool"] for row in await connection.fetch(_UNCAP, uncapped) if row["ready"] > 0}
    return sorted(woken)


async def unqueue(connection: Connection, places: Sequence[Place]) -> list[str]:
    """Take runs that are QUEUED out of the queue, wherever they wait, with their timers; return woken pools.

    Every run counts once against its tenant's queue: call it only for runs whose status was QUEUED under the
    tenant's lock. Their lanes are passed on by `pass_lanes`.
    """
    rows = await connection.fetch(_UNQUEUE, *_columns(places), [p.ordering_key for p in places])
    if not any(row["throttles"] for row in rows):
        return []
    return await throttle.leave(connection, [p.run_id for p in places])


async def enqueue(
    connection: Connection, places: Sequence[Place], *, delays: Sequence[float] | None = None
) -> list[str]:
    """Put runs that hold their lane (or have none) into the queue; return the pools that got work.

    A delay in seconds above 0 lets a run wait first; one that a person holds waits until it is resumed. A run
    that comes back keeps its `seq`, so it goes to the front of its pool.
    """
    if not places:
        return []
    rows = await connection.fetch(_ENQUEUE, *_columns(places), list(delays or [0.0] * len(places)))
    return sorted({row["pool"] for row in rows})


async def pass_lanes(connection: Connection, leaving: Iterable[tuple[str, str, UUID]]) -> list[str]:
    """Hand the lanes of ended runs, given as (tenant, ordering key, run), to the next; return woken pools.

    Runs without an ordering key, and runs that do not hold their lane, are passed over: any may be given.
    Call it after `release_leases` and `unqueue`, for it reads what they counted.
    """
    lanes = [run for run in leaving if run[1]]
    if not lanes:
        return []
    tenants, keys, runs = zip(*lanes, strict=True)
    rows = await connection.fetch(_HAND_OVER, list(tenants), list(keys), list(runs))
    return sorted(Counter(row["pool"] for row in rows))


def _columns(places: Sequence[Place]) -> list[list[object]]:
    return [
        [p.run_id for p in places],
        [p.tenant for p in places],
        [p.pool for p in places],
        [p.rank for p in places],
        [p.seq for p in places],
    ]
