"""Parked runs whose time has come wake: never early, once, and one tenant's many not before another's few.

The oldest go first as long as all that is due fits in one round. When it does not, half a round is theirs,
and for the other half the tenants take turns: each round goes on after the tenant at which the one before has
ended, and takes a few of each.
"""

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger.park import wake
from holdfast.ledger.release import lock_tenants_of

ROUND: Final = 256
"""Runs that are woken in one transaction."""
SHARE: Final = 16
"""How many of one tenant a turn takes."""
LOOKED_AT: Final = 256
"""Tenants that a round passes by at most; most of them may have nothing that is due."""

# Statements of their own, so now() is the present; the index takes no volatile clock.
_OLDEST: Final = """
SELECT run_id FROM timer WHERE kind = 3 AND due_time <= now() ORDER BY due_time LIMIT $1
"""

# Steps from tenant to tenant along the index; those beyond its end begin again at its start.
_TURNS: Final = """
WITH RECURSIVE turn AS (
    (SELECT tenant, 1 AS place FROM timer WHERE kind = 3 AND tenant > $1 ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT n.tenant, turn.place + 1 FROM turn CROSS JOIN LATERAL (
        SELECT tenant FROM timer WHERE kind = 3 AND tenant > turn.tenant ORDER BY tenant LIMIT 1
    ) n
    WHERE turn.place < $2
)
SELECT turn.tenant, turn.place, d.run_id
FROM turn LEFT JOIN LATERAL (
    SELECT run_id FROM timer
    WHERE kind = 3 AND tenant = turn.tenant AND due_time <= now() ORDER BY due_time LIMIT $3
) d ON true
ORDER BY turn.place
"""

# Another process may have been first: looked at again under the locks. In order of run, as everyone locks.
_DUE: Final = """
SELECT s.run_id
FROM unnest($1::uuid[]) AS u (run_id)
JOIN timer t ON t.run_id = u.run_id AND t.kind = 3 AND t.due_time <= clock_timestamp()
JOIN run_state s ON s.run_id = t.run_id
ORDER BY s.run_id FOR NO KEY UPDATE OF s
"""


@dataclass(slots=True)
class Woken:
    """What a round has woken: how many runs, and the pools that got work.

    `after` is the tenant after which the next round goes on, empty for the first.
    """

    count: int = 0
    pools: list[str] = field(default_factory=list)
    after: str = ""


async def wake_due(db: Database, *, after: str = "", limit: int = ROUND) -> Woken:
    """Wake up to `limit` parked runs whose time has come. Repeatable; locks tenants, then runs."""
    async with db.connection() as connection:
        due = [row["run_id"] for row in await connection.fetch(_OLDEST, limit)]
        if len(due) == limit:
            turns, after = await _turns(connection, after, limit // 2)
            due = list(dict.fromkeys([*due[: limit // 2], *turns]))
        else:
            after = ""
    if not due:
        return Woken(after=after)

    async def once() -> Woken:
        async with db.transaction() as connection:
            await lock_tenants_of(connection, due)
            run_ids = [row["run_id"] for row in await connection.fetch(_DUE, due)]
            return Woken(len(run_ids), await wake(connection, run_ids), after)

    return await db.retrying(once)


async def _turns(connection: Connection, after: str, most: int) -> tuple[list[UUID], str]:
    """Return what is due of the tenants whose turn it is, and the last of them, empty after all."""
    rows = await connection.fetch(_TURNS, after, LOOKED_AT, SHARE)
    taken: list[UUID] = []
    for row in rows:
        if len(taken) >= most and row["tenant"] != after:
            return taken, after
        after = row["tenant"]
        if row["run_id"] is not None:
            taken.append(row["run_id"])
    return taken, after if rows and rows[-1]["place"] == LOOKED_AT else ""
