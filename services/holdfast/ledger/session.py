"""A runner's session: one heartbeat stands for all its leases, and its end frees them.

open ─▶ alive ─(heartbeat)─▶ alive ─(silence, or a broken stream's grace)─▶ expired ─(sweep)─▶ gone
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger.claim import leased
from holdfast.ledger.domain.attempt import after_hand_back
from holdfast.ledger.platform_move import COLUMNS, Moved, settle, standing
from holdfast.ledger.release import lock_tenants_of
from holdfast.ledger.values import Leased, LeaseRef, ServedIntent


@dataclass(frozen=True, slots=True)
class RunnerSession:
    """A runner as an invoker knows it: where its `RunnerService` is, and what it serves."""

    session_id: UUID
    invoker_id: UUID
    address: str
    intents: tuple[ServedIntent, ...]
    attach_token: str = ""  # what it wants to hear from those who attach to it


_OPEN: Final = """
INSERT INTO runner_session (session_id, invoker_id, address, intents, expire_time, attach_token)
VALUES ($1, $2, $3, $4::jsonb, clock_timestamp() + make_interval(secs => $5), $6)
ON CONFLICT (session_id) DO UPDATE
SET invoker_id = excluded.invoker_id, address = excluded.address, intents = excluded.intents,
    expire_time = excluded.expire_time, attach_token = excluded.attach_token
"""

_HELD: Final = """
SELECT l.session_id, r.intent, r.envelope, r.shape, s.run_id, s.tenant, l.epoch, s.attempt, s.max_attempts,
       s.deadline_ms, s.max_steps, s.max_tools, s.max_tokens, s.max_context, s.create_time,
       s.last_commit, s.last_sequence, s.steps, s.tools, s.tokens, s.context, s.cancel_requested, s.mail_last,
       s.lent_steps, s.lent_tools, s.lent_tokens, s.waits, s.undoing::text AS undoing,
       s.deadline_time, extract(epoch FROM s.deadline_time - clock_timestamp())::float8 AS remaining_s
FROM lease l JOIN run_state s ON s.run_id = l.run_id JOIN run r ON r.run_id = l.run_id
WHERE l.session_id = ANY($1::uuid[]) ORDER BY s.seq
"""

_ALIVE: Final = (
    "SELECT DISTINCT intents::text AS intents FROM runner_session WHERE expire_time > clock_timestamp()"
)

_ATTACH: Final = """
SELECT attach_token FROM runner_session WHERE address = $1 ORDER BY expire_time DESC LIMIT 1
"""

_SERVE: Final = """
INSERT INTO served_intent (intent, agent_version, on_input)
SELECT DISTINCT ON (1, 2) * FROM unnest($1::text[], $2::text[], $3::smallint[]) ORDER BY 1, 2, 3 DESC
ON CONFLICT (intent, agent_version) DO UPDATE
SET last_seen_time = excluded.last_seen_time, on_input = excluded.on_input
"""

# Locked in order first: a sweep may hold several of them.
_HEARTBEAT: Final = """
WITH mine AS MATERIALIZED (
    SELECT session_id FROM runner_session WHERE session_id = ANY($2::uuid[]) AND invoker_id = $1
    ORDER BY session_id FOR NO KEY UPDATE
)
UPDATE runner_session r SET expire_time = clock_timestamp() + make_interval(secs => $3)
FROM mine WHERE r.session_id = mine.session_id RETURNING r.session_id
"""

_EXPIRE: Final = """
UPDATE runner_session SET expire_time = least(expire_time, clock_timestamp() + make_interval(secs => $3))
WHERE session_id = $1 AND invoker_id = $2
"""

_HANDED: Final = f"""
SELECT {COLUMNS} FROM unnest($2::uuid[], $3::bigint[]) AS u (run_id, epoch)
JOIN lease l ON l.run_id = u.run_id AND l.epoch = u.epoch AND l.session_id = $1
JOIN run_state s ON s.run_id = l.run_id
ORDER BY s.run_id FOR UPDATE OF s
"""  # noqa: S608 - a constant of ours


async def open_session(db: Database, session: RunnerSession, *, ttl_s: float) -> list[Leased]:
    """Open a session, or take over one that still lives; return the leases it already holds.

    Repeatable. A session whose life is over starts without leases: they were or will be freed. Registers the
    intents it serves.
    """
    # An Invoker of a release before knows of no critical destinations, and reads this too.
    intents = json.dumps(
        [
            {name: value for name, value in asdict(served).items() if name != "critical" or value}
            for served in session.intents
        ]
    )
    async with db.transaction() as connection:
        await connection.execute(
            _OPEN,
            session.session_id,
            session.invoker_id,
            session.address,
            intents,
            ttl_s,
            session.attach_token,
        )
        await register_intents(connection, session.intents)
        return await held(connection, [session.session_id])


async def attach_token(connection: Connection, address: str) -> str:
    """Return what the runner at an address wants to hear; empty if nothing. The sessions are few."""
    return await connection.fetchval(_ATTACH, address) or ""


async def held(connection: Connection, session_ids: Sequence[UUID]) -> list[Leased]:
    """Return what the sessions hold: to find leases whose `claim` or `admit` had no answer."""
    return [leased(row) for row in await connection.fetch(_HELD, list(session_ids))]


async def serves(connection: Connection, pool: str) -> bool:
    """Say whether a session lives that takes the runs of a pool; the sessions are few."""
    rows = await connection.fetch(_ALIVE)
    intents = (ServedIntent(**each) for row in rows for each in json.loads(row["intents"]))
    return any(pool in served.pools for served in intents)


async def register_intents(connection: Connection, intents: Sequence[ServedIntent]) -> None:
    """Remember that these intents are served, and what their agents do with input. Repeatable.

    A call for any other intent is refused at the door.
    """
    await connection.execute(
        _SERVE,
        [s.intent for s in intents],
        [s.agent_version for s in intents],
        [int(s.on_input) for s in intents],
    )


async def heartbeat(
    connection: Connection, invoker_id: UUID, session_ids: Sequence[UUID], *, ttl_s: float
) -> set[UUID]:
    """Let the sessions live on for `ttl_s`; return those that are gone or belong to another invoker now.

    The leases of what is returned are over: tell their runners to stop.
    """
    rows = await connection.fetch(_HEARTBEAT, invoker_id, sorted(session_ids), ttl_s)
    return set(session_ids) - {row["session_id"] for row in rows}


async def expire_soon(connection: Connection, invoker_id: UUID, session_id: UUID, *, grace_s: float) -> None:
    """Let a session whose stream broke end after a grace, unless it opens again; 0 ends it at once."""
    await connection.execute(_EXPIRE, session_id, invoker_id, grace_s)


async def hand_back(db: Database, session_id: UUID, leases: Sequence[LeaseRef]) -> Moved:
    """Take leases back unfinished, as at a drain; the attempt is not counted.

    Repeatable: leases that the session no longer holds are passed over. Locks tenants, then runs.
    """

    async def once() -> Moved:
        async with db.transaction() as connection:
            await lock_tenants_of(connection, [lease.run_id for lease in leases])
            rows = await connection.fetch(
                _HANDED, session_id, [lease.run_id for lease in leases], [lease.epoch for lease in leases]
            )
            runs = [standing(row) for row in rows]
            decided = [
                (run, after_hand_back(run.attempt, cancel_requested=run.cancel_requested)) for run in runs
            ]
            return await settle(connection, decided, None)

    return await db.retrying(once)
