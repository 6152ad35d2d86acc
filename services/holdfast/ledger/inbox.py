"""Events that other services staged in their own transactions wait here, each until it is a run or refused.

An event leaves only with its fate: its run exists (the idempotency key finds it after a crash), or it is
among the refused. One process at a time moves events on: those of one ordering key keep their order.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from holdfast.kit.db import Connection, Database

INBOX: Final = "holdfast_inbox"
"""The channel on which the first event in an empty inbox is told of."""

MOST: Final = 256
MOST_OF_TENANT: Final = 64
MOST_BYTES: Final = 4 * 1024 * 1024
_LOCK: Final = 0x696E626F78  # of one drainer at a time; any constant of our own


@dataclass(frozen=True, slots=True)
class InboxEvent:
    """A staged event; `payload` is JSON text."""

    tenant: str
    seq: int
    intent: str
    payload: str
    idempotency_key: str
    ordering_key: str
    caller_user: str
    priority: int
    labels: str
    correlation_id: str
    not_before: datetime | None
    create_time: datetime
    source: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event will not become a run as it is."""

    reason: str
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one process has in its hands until the block ends."""

    connection: Connection
    events: Sequence[InboxEvent]


_COLUMNS: Final = """tenant, seq, intent, payload, idempotency_key, ordering_key, caller_user, priority,
labels, correlation_id, not_before, create_time, source, traceparent"""

# Tenant after tenant by the first row of each, from the one after the last on: a backlog delays its own
# tenant only. Those passed over are left out late, or their backlogs would be walked.
TAKE: Final = f"""
WITH RECURSIVE tenants AS (
    (SELECT tenant FROM run_inbox WHERE tenant > $1 ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT i.tenant FROM run_inbox i WHERE i.tenant > t.tenant ORDER BY i.tenant LIMIT 1)
    FROM tenants t WHERE t.tenant IS NOT NULL
), first AS (
    SELECT i.*, sum(i.payload_bytes) OVER (ORDER BY i.tenant, i.seq) - i.payload_bytes AS before
    FROM (SELECT tenant FROM tenants WHERE tenant <> ALL($2::text[]) LIMIT $3) t
    CROSS JOIN LATERAL (
        SELECT * FROM run_inbox r WHERE r.tenant = t.tenant ORDER BY r.seq LIMIT $4
    ) i ORDER BY i.tenant, i.seq LIMIT $3
)
SELECT {_COLUMNS} FROM first WHERE before <= $5 ORDER BY tenant, seq
"""  # noqa: S608 - a constant of ours

_REFUSE: Final = f"""
INSERT INTO run_inbox_refused ({_COLUMNS}, payload_bytes, reason, message, field)
SELECT {", ".join(f"i.{name.strip()}" for name in _COLUMNS.split(","))}, i.payload_bytes,
       u.reason, u.message, u.field
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
     AS u (of_tenant, number, reason, message, field)
JOIN run_inbox i ON i.tenant = u.of_tenant AND i.seq = u.number
ON CONFLICT DO NOTHING
"""  # noqa: S608 - a constant of ours

_LEAVE: Final = """
DELETE FROM run_inbox i USING unnest($1::text[], $2::bigint[]) AS u (tenant, seq)
WHERE i.tenant = u.tenant AND i.seq = u.seq
"""

# Lanes are locked first and looked at afterwards. One that a writer holds is left to whoever moves its event.
_LOCK_LANES: Final = """
SELECT l.tenant, l.ordering_key FROM unnest($1::text[], $2::text[]) AS u (tenant, ordering_key)
JOIN run_inbox_lane l ON l.tenant = u.tenant AND l.ordering_key = u.ordering_key
ORDER BY l.tenant, l.ordering_key FOR UPDATE OF l SKIP LOCKED
"""

_HELD_LANES: Final = """
SELECT u.tenant, u.ordering_key FROM unnest($1::text[], $2::text[]) AS u (tenant, ordering_key)
WHERE EXISTS (SELECT FROM run_inbox i
              WHERE i.tenant = u.tenant AND i.ordering_key = u.ordering_key AND i.ordering_key <> '')
"""


@asynccontextmanager
async def turn(db: Database, *, after: str, passed_over: Collection[str]) -> AsyncIterator[Turn | None]:
    """Take the oldest events of tenants after `after` in hand; None if another process has a turn.

    What is settled in the block is committed at its end; a crash settles nothing, and the events are taken
    again. Holds the inbox's one lock, and a connection, for the block.
    """
    async with db.transaction() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
            yield None
            return
        rows = await connection.fetch(TAKE, after, list(passed_over), MOST, MOST_OF_TENANT, MOST_BYTES)
        yield Turn(connection, [InboxEvent(**row) for row in rows])


async def settle(held: Turn, moved: Sequence[InboxEvent], refused: Mapping[tuple[str, int], Refusal]) -> None:
    """Let events leave: those that are runs, and those refused, which are kept apart with the cause."""
    connection = held.connection
    if refused:
        await connection.execute(
            _REFUSE,
            [tenant for tenant, _ in refused],
            [seq for _, seq in refused],
            [cause.reason for cause in refused.values()],
            [cause.message for cause in refused.values()],
            [cause.field for cause in refused.values()],
        )
    gone = [*((event.tenant, event.seq) for event in moved), *refused]
    if not gone:
        return
    await connection.execute(_LEAVE, [tenant for tenant, _ in gone], [seq for _, seq in gone])
    left = set(gone)
    lanes = {(e.tenant, e.ordering_key) for e in held.events if e.ordering_key and (e.tenant, e.seq) in left}
    if lanes:
        await _leave_lanes(connection, lanes)


_LEAVE_LANES: Final = """
DELETE FROM run_inbox_lane l USING unnest($1::text[], $2::text[]) AS u (tenant, ordering_key)
WHERE l.tenant = u.tenant AND l.ordering_key = u.ordering_key
"""


async def _leave_lanes(connection: Connection, lanes: set[tuple[str, str]]) -> None:
    order = sorted(lanes)
    locked = await connection.fetch(_LOCK_LANES, [t for t, _ in order], [k for _, k in order])
    if not locked:
        return
    held: list[Any] = await connection.fetch(
        _HELD_LANES, [row["tenant"] for row in locked], [row["ordering_key"] for row in locked]
    )
    empty = {tuple(row) for row in locked} - {tuple(row) for row in held}
    if empty:
        await connection.execute(_LEAVE_LANES, [t for t, _ in empty], [k for _, k in empty])
