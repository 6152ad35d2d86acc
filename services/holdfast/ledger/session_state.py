"""A session's state: read by the run that holds its lane, written with that run's end, forgotten by people.

    none ──(an end that saves)──▶ version 1 ──(an end that saves)──▶ version 2 … ──(forgotten)──▶ none

Every change is made under the tenant's lock, after the run's row. One run of a session has it at a time, so
two never write over each other; the version is compared all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import InvalidField, SessionConflict, SessionInUse, SessionNotFound, Violation
from holdfast.ledger.domain.lane import lane_of, session_of
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.release import lock_tenants


@dataclass(frozen=True, slots=True)
class Found:
    """What a run finds when it starts: JSON, empty if nothing is saved, and the version it is of."""

    state: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Saving:
    """What a run that ended leaves: JSON, and the version it had found."""

    run_id: UUID
    tenant: str
    lane: str
    status: RunStatus
    state: bytes
    loaded_version: int


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as people see it; `state` is JSON."""

    session_id: str
    state: bytes
    version: int
    run_id: UUID
    create_time: datetime
    update_time: datetime


# A retried run that was the last to write finds what was there before it wrote.
_LOAD: Final = """
SELECT CASE WHEN run_id = $3 THEN before ELSE state END AS state, version
FROM session WHERE tenant = $1 AND session_id = $2
"""

_SAVE: Final = """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::uuid[], $6::boolean[])
        AS u (tenant, session_id, state, loaded_version, run_id, partial)
), changed AS (
    UPDATE session s
    SET state = g.state, version = s.version + 1, run_id = g.run_id, update_time = clock_timestamp(),
        before = CASE WHEN NOT g.partial THEN NULL WHEN s.run_id = g.run_id THEN s.before ELSE s.state END
    FROM given g
    WHERE s.tenant = g.tenant AND s.session_id = g.session_id AND s.version = g.loaded_version
    RETURNING s.run_id
), made AS (
    INSERT INTO session (tenant, session_id, state, version, run_id)
    SELECT tenant, session_id, state, 1, run_id FROM given WHERE loaded_version = 0
    ON CONFLICT DO NOTHING RETURNING run_id
)
SELECT run_id FROM changed UNION ALL SELECT run_id FROM made
"""

_GET: Final = """
SELECT session_id, state, version, run_id, create_time, update_time
FROM session WHERE tenant = $1 AND session_id = $2
"""

_HOLDER: Final = "SELECT holder FROM lane WHERE tenant = $1 AND ordering_key = $2"

_FORGET: Final = "DELETE FROM session WHERE tenant = $1 AND session_id = $2 RETURNING version"


async def load(connection: Connection, tenant: str, lane: str, run_id: UUID) -> Found | None:
    """Read what the run that holds a lane finds; None if the lane is no session's."""
    session_id = session_of(lane)
    if not session_id:
        return None
    row = await connection.fetchrow(_LOAD, tenant, session_id, run_id)
    return Found(b"", 0) if row is None else Found(row["state"] or b"", row["version"])


async def save(connection: Connection, savings: Sequence[Saving]) -> None:
    """Write what runs leave, in the transaction that ends them and under their tenants' locks.

    Raises, with the `run_id` of the one it is about, `InvalidField` for a run without a session and
    `SessionConflict` if the session is not at the version the run had loaded.
    """
    for saving in savings:
        if not session_of(saving.lane):
            wrong = Violation("session", "must not be set: the run belongs to no session")
            raise InvalidField(
                "The commit is malformed.", violations=[wrong], facts={"run_id": str(saving.run_id)}
            )
    rows = await connection.fetch(
        _SAVE,
        [saving.tenant for saving in savings],
        [session_of(saving.lane) for saving in savings],
        [saving.state for saving in savings],
        [saving.loaded_version for saving in savings],
        [saving.run_id for saving in savings],
        [saving.status is RunStatus.PARTIAL for saving in savings],
    )
    saved = {row["run_id"] for row in rows}
    for saving in savings:
        if saving.run_id not in saved:
            raise SessionConflict(
                f"The session is no longer at version {saving.loaded_version}, which the run had loaded.",
                facts={"run_id": str(saving.run_id)},
            )


async def get(connection: Connection, tenant: str, session_id: str) -> SessionView:
    """Read a session. Raises `SessionNotFound`, also for another tenant's."""
    row = await connection.fetchrow(_GET, tenant, session_id)
    if row is None:
        raise _not_found(session_id)
    return SessionView(**dict(row))


async def forget(db: Database, tenant: str, session_id: str) -> None:
    """Delete a session's state; its next run begins anew.

    Not repeatable: a second call raises `SessionNotFound`. Raises `SessionInUse` while a run of it has not
    ended: what a run found when it started stays as it is until it has. Locks the tenant.
    """

    async def once() -> None:
        async with db.transaction() as connection:
            await lock_tenants(connection, [tenant])
            holder = await connection.fetchval(_HOLDER, tenant, lane_of("", session_id))
            if holder is not None:
                raise SessionInUse(
                    "A run of the session has not ended; cancel it, or wait.", facts={"run_id": str(holder)}
                )
            if await connection.fetchval(_FORGET, tenant, session_id) is None:
                raise _not_found(session_id)

    await db.retrying(once)


def _not_found(session_id: str) -> SessionNotFound:
    return SessionNotFound("Nothing is saved of such a session.", facts={"session_id": session_id})
