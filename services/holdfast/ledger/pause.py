"""Holding runs: a person's word that no runner executes one until another word.

QUEUED ──(pause)──▶ QUEUED, with a delay that never ends ──(resume)──▶ ready, or what is left of its own delay
PARKED ──(pause)──▶ PARKED ──(woken)──▶ QUEUED, with a delay that never ends
leased ──(pause)──▶ its runner is told, and gives it back (`release.enqueue` finds it paused)
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import RunEnded, RunNotFound
from holdfast.ledger.domain.status import ENDED, LEASED, RunStatus
from holdfast.ledger.holder import Holder
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.throttle import leave


@dataclass(frozen=True, slots=True)
class Paused:
    """Where a run stands after somebody has paused or resumed it; `holder` is whom to tell."""

    status: RunStatus
    holder: Holder | None = None


_FIND: Final = """
SELECT run_id, status, paused IS NOT NULL AS paused FROM run_state
WHERE run_id = $1 AND tenant = $2 FOR NO KEY UPDATE
"""

_MARK: Final = """
UPDATE run_state s SET paused = jsonb_build_object('reason', $2::text, 'not_before',
    (SELECT due_time FROM timer t WHERE t.run_id = s.run_id AND t.kind = 2))
WHERE run_id = $1
"""

# Of a run behind another of its ordering key, or whose user is at his cap, there is no row among the ready.
_HOLD: Final = """
WITH taken AS (
    DELETE FROM ready WHERE ctid = ANY(ARRAY(
        SELECT r.ctid FROM run_state s JOIN ready r
            ON (r.pool, r.tenant, r.rank, r.seq) = (s.pool, s.tenant, s.rank, s.seq)
        WHERE s.run_id = $1
    ))
    RETURNING pool, tenant
), counted AS (
    UPDATE tenant_pool p SET ready = p.ready - 1
    FROM taken WHERE (p.pool, p.tenant) = (taken.pool, taken.tenant)
)
INSERT INTO timer (run_id, kind, due_time) VALUES ($1, 2, 'infinity')
ON CONFLICT (run_id, kind) DO UPDATE SET due_time = excluded.due_time
"""

_GO_ON: Final = """
WITH held AS (
    SELECT run_id, (paused->>'not_before')::timestamptz AS not_before FROM run_state WHERE run_id = $1
), due AS (
    UPDATE timer t SET due_time = greatest(clock_timestamp(), held.not_before) FROM held
    WHERE t.run_id = held.run_id AND t.kind = 2
)
UPDATE run_state SET paused = NULL WHERE run_id = $1
"""

_HOLDER: Final = """
SELECT l.session_id, r.address, l.epoch
FROM lease l JOIN runner_session r ON r.session_id = l.session_id WHERE l.run_id = $1
"""


async def pause(db: Database, tenant: str, run_id: UUID, reason: str = "") -> Paused:
    """Hold a run; the first reason stands. Repeatable. Raises `RunNotFound`, `RunEnded`.

    A leased run is only marked: tell its `holder`. Locks the tenant, then the run.
    """

    async def once() -> Paused:
        async with db.transaction() as connection:
            row = await _find(connection, tenant, run_id)
            status = RunStatus(row["status"])
            if not row["paused"]:
                await connection.execute(_MARK, run_id, reason)
                if status is RunStatus.QUEUED:
                    await connection.execute(_HOLD, run_id)
                    await leave(connection, [run_id])
            holder = await connection.fetchrow(_HOLDER, run_id) if status in LEASED else None
            return Paused(status, holder and Holder(**dict(holder)))

    return await db.retrying(once)


async def resume(db: Database, tenant: str, run_id: UUID) -> Paused:
    """Let a run go on: it is due at once, or when its own delay is over. Repeatable.

    Raises `RunNotFound`, `RunEnded`. Locks the tenant, then the run.
    """

    async def once() -> Paused:
        async with db.transaction() as connection:
            row = await _find(connection, tenant, run_id)
            if row["paused"]:
                await connection.execute(_GO_ON, run_id)
            return Paused(RunStatus(row["status"]))

    return await db.retrying(once)


async def _find(connection: Connection, tenant: str, run_id: UUID) -> Any:
    await lock_tenants(connection, [tenant])
    row = await connection.fetchrow(_FIND, run_id, tenant)
    facts = {"run_id": str(run_id)}
    if row is None:
        raise RunNotFound("There is no such run.", facts=facts)
    if RunStatus(row["status"]) in ENDED:
        status = RunStatus(row["status"]).name
        raise RunEnded(f"The run has ended {status}.", facts=facts | {"status": status})
    return row
