"""Events that could not become runs are kept with the cause until a person decides about them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import EventNotFound


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event and why it was refused; `payload` is JSON: a text, if a source could make no object of it."""

    seq: int
    intent: str
    payload: str
    idempotency_key: str
    ordering_key: str
    reason: str
    message: str
    field: str
    create_time: datetime
    refuse_time: datetime
    source: str


@dataclass(frozen=True, slots=True)
class Aside:
    """An event that a source received, and why it cannot become a run; `payload` and `labels` are JSON."""

    intent: str
    payload: str
    idempotency_key: str
    ordering_key: str
    caller_user: str
    priority: int
    labels: str
    correlation_id: str
    not_before: datetime | None
    reason: str
    message: str
    field: str
    traceparent: str = ""


LIST: Final = """
SELECT seq, intent, payload, idempotency_key, ordering_key, reason, message, field, create_time, refuse_time,
       source
FROM run_inbox_refused WHERE tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""

_TAKE_LANE: Final = """
INSERT INTO run_inbox_lane AS lane (tenant, ordering_key)
SELECT tenant, ordering_key FROM run_inbox_refused WHERE tenant = $1 AND seq = $2 AND ordering_key <> ''
ON CONFLICT (tenant, ordering_key) DO UPDATE SET ordering_key = lane.ordering_key
"""

_AGAIN: Final = """
WITH gone AS (DELETE FROM run_inbox_refused WHERE tenant = $1 AND seq = $2 RETURNING *)
INSERT INTO run_inbox (tenant, intent, payload, idempotency_key, ordering_key, caller_user, priority, labels,
                       correlation_id, not_before, create_time, source, traceparent)
SELECT tenant, intent, payload, idempotency_key, ordering_key, caller_user, priority, labels,
       correlation_id, not_before, create_time, source, traceparent FROM gone
RETURNING seq
"""

# One key of a source is set aside once, whatever delivers it again.
_SET_ASIDE: Final = """
INSERT INTO run_inbox_refused (tenant, seq, source, intent, payload, payload_bytes, idempotency_key,
                               ordering_key, caller_user, priority, labels, correlation_id, not_before,
                               reason, message, field, traceparent)
SELECT $1, nextval('run_inbox_seq_seq'), $2, e.intent, e.payload, octet_length(e.payload), e.idempotency_key,
       e.ordering_key, e.caller_user, e.priority, e.labels::jsonb, e.correlation_id, e.not_before, e.reason,
       e.message, e.field, e.traceparent
FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::text[],
            $11::timestamptz[], $12::text[], $13::text[], $14::text[], $15::text[])
     WITH ORDINALITY AS e (intent, payload, idempotency_key, ordering_key, caller_user, priority, labels,
                           correlation_id, not_before, reason, message, field, traceparent, place)
ORDER BY e.place
ON CONFLICT (tenant, source, idempotency_key) WHERE source <> '' DO NOTHING
"""

_DISCARD: Final = "DELETE FROM run_inbox_refused WHERE tenant = $1 AND seq = $2 RETURNING true"


async def list_refused(
    connection: Connection, tenant: str, *, limit: int, after: int = 0
) -> Sequence[RefusedEvent]:
    """Return a tenant's refused events in the order they were staged, from the one after `after` on."""
    return [RefusedEvent(**row) for row in await connection.fetch(LIST, tenant, after, limit)]


async def set_aside(connection: Connection, tenant: str, source: str, events: Sequence[Aside]) -> None:
    """Keep events that a source received. Repeatable: of a key that is kept already nothing changes."""
    columns = (field.name for field in fields(Aside))
    await connection.execute(
        _SET_ASIDE, tenant, source, *([getattr(event, name) for event in events] for name in columns)
    )


async def retry(db: Database, tenant: str, seq: int) -> int:
    """Put a refused event into the inbox again, behind all others of its order; return its new number.

    Raises `EventNotFound`, so a repeated call is refused. Locks the event's lane.
    """

    async def once() -> int:
        async with db.transaction() as connection:
            await connection.execute(_TAKE_LANE, tenant, seq)
            number = await connection.fetchval(_AGAIN, tenant, seq)
            if number is None:
                raise _not_found(seq)
            return int(number)

    return await db.retrying(once)


async def discard(db: Database, tenant: str, seq: int) -> None:
    """Forget a refused event. Raises `EventNotFound`."""
    async with db.connection() as connection:
        if not await connection.fetchval(_DISCARD, tenant, seq):
            raise _not_found(seq)


def _not_found(seq: int) -> EventNotFound:
    return EventNotFound("There is no such refused event.", facts={"event_id": str(seq)})
