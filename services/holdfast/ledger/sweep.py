"""The sweep: the leases of a runner that fell silent are freed, and its runs go on elsewhere."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger.domain.attempt import RUNNER_LOST, after_failed_attempt
from holdfast.ledger.platform_move import COLUMNS, Moved, settle, standing
from holdfast.ledger.values import Failure

_EXPIRED: Final = """
SELECT session_id FROM runner_session WHERE expire_time <= now() ORDER BY expire_time LIMIT 32
"""

_LOCK_TENANTS: Final = """
SELECT tenant FROM tenant
WHERE tenant = ANY(ARRAY(SELECT DISTINCT tenant FROM lease WHERE session_id = ANY($1::uuid[])))
ORDER BY tenant FOR NO KEY UPDATE
"""

# Whoever gives out leases locks their session FOR KEY SHARE, which this excludes.
_LOCK_SESSIONS: Final = """
SELECT session_id FROM runner_session
WHERE session_id = ANY($1::uuid[]) AND expire_time <= clock_timestamp() ORDER BY session_id FOR UPDATE
"""

# Only of tenants locked above: a lease of another came meanwhile, and its turn is the next round.
_LOST: Final = f"""
WITH lost AS MATERIALIZED (
    SELECT run_id FROM lease WHERE session_id = ANY($1::uuid[]) AND tenant = ANY($2::text[]) LIMIT $3
)
SELECT {COLUMNS} FROM lost JOIN run_state s ON s.run_id = lost.run_id ORDER BY s.run_id FOR UPDATE OF s
"""  # noqa: S608 - a constant of ours

_BURY: Final = """
DELETE FROM runner_session r WHERE r.session_id = ANY($1::uuid[])
    AND NOT EXISTS (SELECT FROM lease l WHERE l.session_id = r.session_id)
"""


async def sweep(db: Database, *, limit: int = 256) -> Moved:
    """Free up to `limit` leases of sessions that have expired, in one transaction.

    A run with attempts left goes to the front of its pool; after its last one to the dead letters; one that
    someone asked to cancel is cancelled. Any number of processes may sweep. Locks tenants, sessions, runs.
    """

    async def once() -> Moved:
        async with db.connection() as connection:
            expired = [row["session_id"] for row in await connection.fetch(_EXPIRED)]
        if not expired:
            return Moved()
        async with db.transaction() as connection:
            return await _free(connection, expired, limit)

    return await db.retrying(once)


async def _free(connection: Connection, expired: Sequence[UUID], limit: int) -> Moved:
    tenants = [row["tenant"] for row in await connection.fetch(_LOCK_TENANTS, list(expired))]
    dead = [row["session_id"] for row in await connection.fetch(_LOCK_SESSIONS, list(expired))]
    if not dead:
        return Moved()
    runs = [standing(row) for row in await connection.fetch(_LOST, dead, tenants, limit)]
    decided = [
        (run, after_failed_attempt(run.attempt, run.max_attempts, cancel_requested=run.cancel_requested))
        for run in runs
    ]
    moved = await settle(
        connection, decided, Failure(RUNNER_LOST, "The runner that held the run fell silent.")
    )
    await connection.execute(_BURY, dead)
    return moved
