"""Pools of a tenant are held back: by the cap of an intent, or by the breaker of a critical destination.

    open ──(a claim finds no room)──▶ held ──(what holds it is over | look_time)──▶ open

A cap's hold is over when a lease of the intent ends, a breaker's when the breaker of `held_by` is not open
any more: until then claims do not meet the pool. `held` keeps it out of the ring and decides nothing: whether
there is room is looked up by the claim that comes next, under the tenant's lock. The slots of an intent are
its leases, counted by an index; a breaker is read as it stands. So a pool that is opened too early costs a
look, and nothing is ever exceeded.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.kit.db import Connection, Database
from holdfast.ledger.domain.ring import Turn
from holdfast.ledger.values import intent_of

Key = tuple[str, str]
"""A tenant, and an intent of its."""

UNASKED_S: Final = 30.0
"""How soon a pool is looked at again though what holds it is not over: agents may have come to need less."""
_MOST: Final = 500
"""As many are opened at a time, of each of the two."""

USED: Final = """
SELECT u.tenant, u.intent, l.n FROM unnest($1::text[], $2::text[]) AS u (tenant, intent)
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM lease WHERE lease.tenant = u.tenant AND lease.capped_intent = u.intent) l
"""

# A breaker that nobody probes holds nothing: without an effect on its way it would stay open for ever, and
# so would what waits for it. A probe is made within a second of its time, and is over within a minute.
_SHUT: Final = """
(s.breaker = 2 AND now() < s.probe_time + interval '2 s'
 OR s.breaker = 3 AND now() < s.probe_time + interval '60 s')
"""

OPEN: Final = f"""
SELECT d.tenant, d.name, d.destination_id
FROM unnest($1::text[], $2::text[]) AS u (tenant, name)
CROSS JOIN LATERAL (
    SELECT tenant, name, destination_id FROM destination
    WHERE destination.tenant = u.tenant AND destination.name = u.name LIMIT 1) d
CROSS JOIN LATERAL (
    SELECT FROM destination_state s WHERE s.destination_id = d.destination_id AND {_SHUT} LIMIT 1) s
"""  # noqa: S608 - a constant of ours

HOLD: Final = """
UPDATE tenant_pool p
SET held = true, held_for = u.why, held_by = u.held_by,
    look_time = clock_timestamp() + make_interval(secs => $5)
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS u (pool, tenant, why, held_by)
WHERE p.pool = u.pool AND p.tenant = u.tenant
"""

# A lookup for each pool. A join, planned while nothing is held, would compare each with each in an outage.
_OVER: Final = f"""
held_by IS NOT NULL
AND (SELECT s.breaker FROM destination_state s WHERE s.destination_id = held_by AND {_SHUT}) IS NULL
"""  # noqa: S608 - a constant of ours

# Two indexes, each of what is held alone. Reads every pool that a breaker holds, and locks and writes none.
DUE: Final = f"""
(SELECT tenant FROM tenant_pool WHERE held AND look_time <= now() LIMIT {_MOST})
UNION ALL
(SELECT tenant FROM tenant_pool WHERE held AND {_OVER} LIMIT {_MOST})
"""  # noqa: S608 - a constant of ours

LOCK: Final = """
SELECT tenant FROM tenant WHERE tenant = ANY($1::text[]) ORDER BY tenant FOR NO KEY UPDATE
"""

LOOK_AGAIN: Final = f"""
UPDATE tenant_pool SET held = false, look_time = now()
WHERE tenant = ANY($1::text[]) AND held AND (look_time <= now() OR {_OVER}) RETURNING pool, ready
"""  # noqa: S608 - a constant of ours

# While it is being looked at again nothing is known anew.
REASON: Final = """
SELECT held_for FROM tenant_pool
WHERE pool = $1 AND tenant = $2 AND (held OR look_time > clock_timestamp() - interval '2 s')
"""

# What comes before @ and # is `intent_of` the pool.
FREE: Final = """
UPDATE tenant_pool p SET held = false, look_time = now()
WHERE p.tenant = ANY($1::text[]) AND p.held AND p.held_by IS NULL
      AND (p.tenant, substring(p.pool FROM '[^@#]+')) IN (SELECT * FROM unnest($1::text[], $2::text[]))
RETURNING p.pool, p.ready
"""


@dataclass(slots=True)
class Limits:
    """What a claim may take of pools that something may hold back: by pool and tenant whose room it is."""

    within: dict[Key, Key] = field(default_factory=dict)
    room: dict[Key, int] = field(default_factory=dict)
    why: dict[Key, str] = field(default_factory=dict)
    by: dict[Key, int] = field(default_factory=dict)
    capped: set[Key] = field(default_factory=set)
    by_user: set[str] = field(default_factory=set)
    """Tenants whose users have caps, which hold back runs and no pools (`throttle`)."""

    def mark(self, turn: Turn) -> str | None:
        """Return the intent as whose a lease of this pool counts; None if it counts against no cap."""
        key = (turn.tenant, intent_of(turn.pool))
        return key[1] if key in self.capped else None


async def limits(
    connection: Connection, rows: Sequence[Any], critical: Mapping[str, Sequence[str]]
) -> Limits:
    """Look up what holds pools back; the tenants of these rows of `claim_sql.TURNS` are locked.

    `critical` are the destinations that a pool's runs do not start without. Without either nothing is asked.
    """
    found = Limits(by_user={row["tenant"] for row in rows if row["by_user"]})
    caps = {
        (row["tenant"], intent): most
        for row in rows
        if row["intent_caps"] is not None
        for intent, most in json.loads(row["intent_caps"]).items()
    }
    await _by_cap(connection, rows, caps, found)
    await _by_breaker(connection, rows, critical, found)
    return found


async def _by_cap(
    connection: Connection, rows: Sequence[Any], caps: Mapping[Key, int], found: Limits
) -> None:
    mine = {(row["pool"], row["tenant"]): (row["tenant"], intent_of(row["pool"])) for row in rows}
    asked = sorted(set(mine.values()) & set(caps))
    if not asked:
        return
    used = await connection.fetch(USED, [tenant for tenant, _ in asked], [intent for _, intent in asked])
    for row in used:
        key = (row["tenant"], row["intent"])
        found.room[key] = max(0, caps[key] - row["n"])
        found.capped.add(key)
    for place, key in mine.items():
        if key in found.capped:
            found.within[place] = key
            found.why[place] = f"max_in_flight_by_intent of {key[1]} is reached: {caps[key]}"


async def _by_breaker(
    connection: Connection, rows: Sequence[Any], critical: Mapping[str, Sequence[str]], found: Limits
) -> None:
    asked = sorted({(row["tenant"], name) for row in rows for name in critical.get(row["pool"], ())})
    if not asked:
        return
    shut = await connection.fetch(OPEN, [tenant for tenant, _ in asked], [name for _, name in asked])
    destinations = {(row["tenant"], row["name"]): row["destination_id"] for row in shut}
    for row in rows:
        place = (row["pool"], row["tenant"])
        for name in critical.get(row["pool"], ()):
            destination = destinations.get((row["tenant"], name))
            if destination is not None:
                nothing = (row["tenant"], f"\0{row['pool']}")  # a room of its own, and none in it
                found.within[place], found.room[nothing] = nothing, 0
                found.why[place] = f"the breaker of its critical destination {name} is open"
                found.by[place] = destination


async def hold(connection: Connection, found: Limits, taken: Mapping[Turn, int]) -> bool:
    """Keep the pools out of the ring in which a claim has left no room; say if there were any."""
    used: dict[Key, int] = {}
    for turn, runs in taken.items():
        key = found.within.get((turn.pool, turn.tenant))
        if key is not None:
            used[key] = used.get(key, 0) + runs
    full = [place for place, key in found.within.items() if found.room[key] <= used.get(key, 0)]
    if full:
        await connection.execute(
            HOLD,
            [pool for pool, _ in full],
            [tenant for _, tenant in full],
            [found.why[place] for place in full],
            [found.by.get(place) for place in full],
            UNASKED_S,
        )
    return bool(full)


async def free(connection: Connection, keys: Iterable[Key]) -> list[str]:
    """Open the pools of these tenants' intents, whose leases have ended; return those with runs.

    Inside the caller's transaction, which has locked the tenants.
    """
    freed = sorted(set(keys))
    rows = await connection.fetch(FREE, [tenant for tenant, _ in freed], [intent for _, intent in freed])
    return sorted({row["pool"] for row in rows if row["ready"] > 0})


async def reason(connection: Connection, tenant: str, pool: str) -> str:
    """Say why claims pass a tenant's runs in a pool over; empty if they do not."""
    return await connection.fetchval(REASON, pool, tenant) or ""


async def look_again(db: Database) -> tuple[int, list[str]]:
    """Open the pools that nothing may hold any more; return for how many tenants, and those with runs.

    Repeatable. Locks the tenants, then their pools.
    """

    async def once() -> tuple[int, list[str]]:
        async with db.transaction() as connection:
            tenants = sorted({row["tenant"] for row in await connection.fetch(DUE)})
            if not tenants:
                return 0, []
            await connection.fetch(LOCK, tenants)
            rows = await connection.fetch(LOOK_AGAIN, tenants)
            return len(tenants), sorted({row["pool"] for row in rows if row["ready"] > 0})

    return await db.retrying(once)
