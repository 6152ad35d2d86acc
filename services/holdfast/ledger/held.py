"""Pools of a tenant are held back: by the cap of an intent, or by the breaker of a critical destination.

    open ──(a claim finds no room)──▶ held ──(a lease of the intent ends | look_time)──▶ open

`held` keeps a pool out of the ring and decides nothing: whether there is room is looked up by the claim that
comes next, under the tenant's lock. The slots of an intent are its leases, counted by an index; a breaker is
read as it stands. So a pool that is opened too early costs a look, and nothing is ever exceeded.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.kit.db import Connection, Database
from holdfast.ledger.domain.ring import Turn

Key = tuple[str, str]
"""A tenant, and an intent of its."""

AGAIN_S: Final = 1.0
"""How soon a pool held by a breaker is looked at again."""
UNASKED_S: Final = 30.0
"""The same of one held by a cap, whose leases free it as they end."""
_MOST: Final = 500

USED: Final = """
SELECT u.tenant, u.intent, l.n FROM unnest($1::text[], $2::text[]) AS u (tenant, intent)
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM lease WHERE lease.tenant = u.tenant AND lease.capped_intent = u.intent) l
"""

# A breaker that nobody probes holds nothing: without an effect on its way it would stay open for ever, and
# so would what waits for it. A probe is made within a second of its time, and is over within a minute.
OPEN: Final = """
SELECT d.tenant, d.name
FROM unnest($1::text[], $2::text[]) AS u (tenant, name)
JOIN destination d ON d.tenant = u.tenant AND d.name = u.name
JOIN destination_state s ON s.destination_id = d.destination_id
WHERE s.breaker = 2 AND clock_timestamp() < s.probe_time + interval '2 s'
   OR s.breaker = 3 AND clock_timestamp() < s.probe_time + interval '60 s'
"""

HOLD: Final = """
UPDATE tenant_pool p
SET held = true, held_for = u.why, look_time = clock_timestamp() + make_interval(secs => u.again_s)
FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[]) AS u (pool, tenant, why, again_s)
WHERE p.pool = u.pool AND p.tenant = u.tenant
"""

DUE: Final = "SELECT DISTINCT tenant FROM tenant_pool WHERE held AND look_time <= now() LIMIT $1"

LOCK: Final = """
SELECT tenant FROM tenant WHERE tenant = ANY($1::text[]) ORDER BY tenant FOR NO KEY UPDATE
"""

LOOK_AGAIN: Final = """
UPDATE tenant_pool SET held = false
WHERE tenant = ANY($1::text[]) AND held AND look_time <= now() RETURNING pool, ready
"""

# While it is being looked at again nothing is known anew.
REASON: Final = """
SELECT held_for FROM tenant_pool
WHERE pool = $1 AND tenant = $2 AND (held OR look_time > clock_timestamp() - interval '2 s')
"""

FREE: Final = """
UPDATE tenant_pool p SET held = false
WHERE p.tenant = ANY($1::text[]) AND p.held
      AND (p.tenant, split_part(p.pool, '@', 1)) IN (SELECT * FROM unnest($1::text[], $2::text[]))
RETURNING p.pool, p.ready
"""


@dataclass(slots=True)
class Limits:
    """What a claim may take of pools that something may hold back: by pool and tenant whose room it is."""

    within: dict[Key, Key] = field(default_factory=dict)
    room: dict[Key, int] = field(default_factory=dict)
    why: dict[Key, tuple[str, float]] = field(default_factory=dict)
    capped: set[Key] = field(default_factory=set)

    def mark(self, turn: Turn) -> str | None:
        """Return the intent as whose a lease of this pool counts; None if it counts against no cap."""
        key = (turn.tenant, intent_of(turn.pool))
        return key[1] if key in self.capped else None


def intent_of(pool: str) -> str:
    """Return the intent of a pool's runs."""
    return pool.partition("@")[0]


async def limits(
    connection: Connection, rows: Sequence[Any], critical: Mapping[str, Sequence[str]]
) -> Limits:
    """Look up what holds pools back; the tenants of these rows of `claim_sql.TURNS` are locked.

    `critical` are the destinations that a pool's runs do not start without. Without either nothing is asked.
    """
    found = Limits()
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
            found.why[place] = (f"max_in_flight_by_intent of {key[1]} is reached: {caps[key]}", UNASKED_S)


async def _by_breaker(
    connection: Connection, rows: Sequence[Any], critical: Mapping[str, Sequence[str]], found: Limits
) -> None:
    asked = sorted({(row["tenant"], name) for row in rows for name in critical.get(row["pool"], ())})
    if not asked:
        return
    shut = await connection.fetch(OPEN, [tenant for tenant, _ in asked], [name for _, name in asked])
    names = {(row["tenant"], row["name"]) for row in shut}
    for row in rows:
        place = (row["pool"], row["tenant"])
        for name in critical.get(row["pool"], ()):
            if (row["tenant"], name) in names:
                nothing = (row["tenant"], f"\0{row['pool']}")  # a room of its own, and none in it
                found.within[place], found.room[nothing] = nothing, 0
                found.why[place] = (f"the breaker of its critical destination {name} is open", AGAIN_S)


async def hold(connection: Connection, found: Limits, taken: Mapping[Turn, int]) -> None:
    """Keep the pools out of the ring in which a claim has left no room."""
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
            [found.why[place][0] for place in full],
            [found.why[place][1] for place in full],
        )


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
    """Open the pools whose time to be looked at has come; return for how many tenants, and those with runs.

    Repeatable. Locks the tenants, then their pools.
    """

    async def once() -> tuple[int, list[str]]:
        async with db.transaction() as connection:
            tenants = [row["tenant"] for row in await connection.fetch(DUE, _MOST)]
            if not tenants:
                return 0, []
            await connection.fetch(LOCK, tenants)
            rows = await connection.fetch(LOOK_AGAIN, tenants)
            return len(tenants), sorted({row["pool"] for row in rows if row["ready"] > 0})

    return await db.retrying(once)
