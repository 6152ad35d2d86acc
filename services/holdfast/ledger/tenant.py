"""Tenants and their limits: read, and changed while they work.

A change takes the lock of the tenant's queue, as admissions and claims do, so it holds for whichever of them
comes next. Nothing that a runner holds is taken back: a cap set below what is in flight lets runs end first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Final

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import TenantNotFound
from holdfast.ledger import throttle
from holdfast.ledger.domain.rate import leaked
from holdfast.ledger.domain.tenant import Terms

_TERMS: Final = tuple(field.name for field in fields(Terms))
_COLUMNS: Final = ", ".join(("tenant", *_TERMS, "create_time", "update_time"))


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant as it stands."""

    tenant: str
    terms: Terms
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Changed:
    """A tenant after a change, and the pools in which its cap no longer holds runs back."""

    view: TenantView
    pools: list[str]


GET: Final = f"SELECT {_COLUMNS} FROM tenant WHERE tenant = $1"  # noqa: S608 - a constant of ours

LIST: Final = f"""
SELECT {_COLUMNS} FROM tenant WHERE tenant > $1 ORDER BY tenant LIMIT $2
"""  # noqa: S608 - a constant of ours

MAKE: Final = "INSERT INTO tenant (tenant) VALUES ($1) ON CONFLICT DO NOTHING"

LOCK: Final = f"""
SELECT {_COLUMNS}, in_flight, spent, spent_time FROM tenant WHERE tenant = $1 FOR NO KEY UPDATE
"""  # noqa: S608 - a constant of ours

NOW: Final = "SELECT clock_timestamp()"

CHANGE: Final = f"""
UPDATE tenant SET spent = $2, spent_time = $3, update_time = $3,
    {", ".join(f"{name} = ${at}" for at, name in enumerate(_TERMS, 4))}
WHERE tenant = $1
RETURNING {_COLUMNS}
"""  # noqa: S608 - a constant of ours

CAP: Final = """
UPDATE tenant_pool SET capped = $2 WHERE tenant = $1 AND capped <> $2 RETURNING pool, ready
"""

# Which leases count against which intent's cap, and whether against their user's: those of before the cap,
# and chunks of light items, whose intent is named before #.
MARK: Final = """
UPDATE lease l SET capped_intent = CASE WHEN r.named = ANY($2::text[]) THEN r.named END,
                   capped_user = CASE WHEN $3::boolean THEN nullif(r.user_id, '') END
FROM (SELECT run_id, user_id, split_part(intent, '#', 1) AS named FROM run) r
WHERE l.run_id = ANY(ARRAY(SELECT run_id FROM run_state WHERE tenant = $1 AND status IN (2, 4)))
      AND r.run_id = l.run_id
"""

OPEN: Final = """
UPDATE tenant_pool SET held = false, look_time = now() WHERE tenant = $1 AND held RETURNING pool, ready
"""


async def get(connection: Connection, tenant: str) -> TenantView:
    """Read a tenant. Raises `TenantNotFound` for one that was never put and never had a run."""
    row = await connection.fetchrow(GET, tenant)
    if row is None:
        raise _unknown(tenant)
    return _view(row)


async def list_tenants(
    connection: Connection, *, limit: int, after: str = ""
) -> tuple[list[TenantView], str]:
    """Read a page of tenants by name, and the name to go on after; empty on the last page."""
    rows = await connection.fetch(LIST, after, limit + 1)
    views = [_view(row) for row in rows[:limit]]
    return views, views[-1].tenant if len(rows) > limit else ""


async def change(db: Database, tenant: str, changes: Mapping[str, Any], *, make: bool = False) -> Changed:
    """Set some of a tenant's limits, by the names of `Terms`; `make` a tenant that is not there.

    Repeatable; a crash changes all or nothing. Raises `TenantNotFound`. Locks the tenant, then its pools.
    """

    async def once() -> Changed:
        async with db.transaction() as connection:
            if make:
                await connection.execute(MAKE, tenant)
            row = await connection.fetchrow(LOCK, tenant)
            if row is None:
                raise _unknown(tenant)
            return await _change(connection, row, replace(_terms(row), **changes))

    return await db.retrying(once)


async def _change(connection: Connection, row: Any, terms: Terms) -> Changed:
    # Until now the bucket has leaked at the rate that was.
    now = await connection.fetchval(NOW)
    spent = leaked(row["spent"], row["rate"], (now - row["spent_time"]).total_seconds())
    values = [getattr(terms, name) for name in _TERMS]
    after = await connection.fetchrow(CHANGE, row["tenant"], spent, now, *values)
    capped = row["in_flight"] >= terms.max_in_flight
    moved = await connection.fetch(CAP, row["tenant"], capped)
    before = _terms(row)
    if (terms.by_intent, terms.caps_users) != (before.by_intent, before.caps_users):
        await connection.execute(MARK, row["tenant"], list(terms.by_intent), terms.caps_users)
    if terms.by_intent != before.by_intent:
        moved += await connection.fetch(OPEN, row["tenant"])
    pools = {pool["pool"] for pool in moved if pool["ready"] > 0}
    if (terms.user_cap, terms.by_user) != (before.user_cap, before.by_user):
        pools |= set(await throttle.change(connection, row["tenant"]))
    return Changed(_view(after), [] if capped else sorted(pools))


def _view(row: Any) -> TenantView:
    return TenantView(row["tenant"], _terms(row), row["create_time"], row["update_time"])


def _terms(row: Any) -> Terms:
    return Terms(**{name: row[name] for name in _TERMS})


def _unknown(tenant: str) -> TenantNotFound:
    return TenantNotFound("There is no such tenant.", facts={"tenant": tenant})
