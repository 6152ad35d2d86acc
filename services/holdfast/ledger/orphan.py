"""Runs that wait and that their parent's end has asked to stop: they end here, a few at a time.

What a run's end leaves behind is marked in the transaction that ends it, so none is forgotten; a tree of
children is cancelled level by level, each level marked by the ends of the one above.
"""

from typing import Final

from holdfast.kit.db import Database
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.platform_move import COLUMNS, Ending, Moved, cancelled, end, standing
from holdfast.ledger.release import lock_tenants_of

ROUND: Final = 64
"""Runs that are ended in one transaction."""

# Served by run_state_orphan, which holds only these.
_FIND: Final = """
SELECT run_id FROM run_state WHERE cancel_requested AND status IN (1, 3) ORDER BY run_id LIMIT $1
"""

# Looked at again under the tenants' locks: a runner may have taken one meanwhile, and is told.
_RUNS: Final = f"""
SELECT {COLUMNS} FROM run_state s
WHERE s.run_id = ANY($1::uuid[]) AND s.cancel_requested AND s.status IN (1, 3)
ORDER BY s.run_id FOR UPDATE OF s
"""  # noqa: S608 - a constant of ours


async def cancel_orphans(db: Database, *, limit: int = ROUND) -> Moved:
    """End up to `limit` runs that wait and shall not. Repeatable; locks tenants, then runs."""
    async with db.connection() as connection:
        found = [row["run_id"] for row in await connection.fetch(_FIND, limit)]
    if not found:
        return Moved()

    async def once() -> Moved:
        async with db.transaction() as connection:
            await lock_tenants_of(connection, found)
            runs = [standing(row) for row in await connection.fetch(_RUNS, found)]
            return await end(connection, [Ending(run, RunStatus.CANCELLED, cancelled(run)) for run in runs])

    return await db.retrying(once)
