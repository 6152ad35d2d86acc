"""Batches and their items as they stand: read by key and by counters, whatever their size."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import BatchNotFound
from holdfast.ledger.domain.batch import BatchStatus, ItemStatus
from holdfast.ledger.domain.batch_pace import Slot
from holdfast.ledger.domain.budget import Usage
from holdfast.ledger.values import Failure

_COLUMNS: Final = (
    "batch_id, seq, tenant, intent, spec, status, resume_status, reason, uploaded, schedule, "
    "max_parallelism, priority, tolerated_items, tolerated_share, create_time, start_time, end_time, "
    "review, apply_target, phase_time, judged, judged_accepted, policy_met, undoing"
)


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch as it stands; `spec` as it was accepted, what has changed since beside it.

    `undoing` is how many undos are on their way.
    """

    batch_id: UUID
    seq: int
    tenant: str
    intent: str
    spec: bytes
    status: BatchStatus
    resume_status: BatchStatus | None
    reason: str
    uploaded: int
    schedule: str
    max_parallelism: int
    priority: int
    tolerated_items: int
    tolerated_share: float
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    review: bytes | None = None
    apply_target: bytes | None = None
    phase_time: datetime | None = None
    judged: int = 0
    judged_accepted: int = 0
    policy_met: bool = False
    undoing: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What was said about an item; `edited` is the output as JSON, as it shall be."""

    accepted: bool
    reason: str
    reviewer: str
    edited: bytes | None
    time: datetime


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Items that failed alike."""

    reason: str
    count: int
    message: str
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is; `latency` is items by bucket, of which n is at most 10 ms times 2 to the n."""

    total: int
    counts: dict[ItemStatus, int]
    usage: Usage
    pace: tuple[Slot, ...]
    latency: dict[int, int]
    errors: tuple[ErrorGroup, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class ItemView:
    """An item as it stands; what was sent and what came of it are JSON."""

    index: int
    key: str
    payload: bytes
    current: bytes | None
    status: ItemStatus
    run_id: UUID | None
    attempts: int
    output: bytes | None
    label: str
    confidence: float | None
    usage: Usage
    failure: Failure | None
    update_time: datetime
    review: Said | None = None
    effect_id: UUID | None = None
    follow_up_run_id: UUID | None = None
    undo_effect_id: UUID | None = None
    undo_run_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items; every condition that is set must hold."""

    statuses: Sequence[ItemStatus] = ()
    label: str = ""
    failure_reason: str = ""
    keys: Sequence[str] = ()
    max_confidence: float = 0.0
    changed: bool = False


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """Which batches; every condition that is set must hold."""

    statuses: Sequence[BatchStatus] = ()
    intent: str = ""
    labels: dict[str, str] = field(default_factory=dict)


GET: Final = f"SELECT {_COLUMNS} FROM batch WHERE batch_id = $1 AND tenant = $2"  # noqa: S608 - constants

LIST: Final = f"""
SELECT {_COLUMNS} FROM batch
WHERE tenant = $1 AND seq < $2 AND (cardinality($3::smallint[]) = 0 OR status = ANY($3))
      AND ($4 = '' OR intent = $4) AND ($5::jsonb = '{{}}' OR labels @> $5)
ORDER BY seq DESC LIMIT $6
"""  # noqa: S608 - a constant of ours

# One statement, so that what it says is of one moment; each part is read by key, whatever the batch's size.
PROGRESS: Final = """
SELECT (SELECT jsonb_object_agg(status, n) FROM batch_count WHERE batch_id = $1 AND n > 0)::text AS counts,
       (SELECT jsonb_agg(jsonb_build_array(at, ended, tokens)) FROM batch_pace WHERE batch_id = $1)::text
           AS pace,
       (SELECT jsonb_object_agg(bucket, n) FROM batch_latency WHERE batch_id = $1)::text AS latency,
       (SELECT jsonb_agg(jsonb_build_array(reason, n, example_message, example_indexes)) FROM (
            SELECT reason, n, example_message, example_indexes FROM batch_error
            WHERE batch_id = $1 AND n > 0 ORDER BY n DESC, reason LIMIT 50) e)::text AS errors,
       coalesce(t.steps, 0) AS steps, coalesce(t.tools, 0) AS tools, coalesce(t.tokens, 0) AS tokens,
       coalesce(t.context, 0) AS context, clock_timestamp() AS now
FROM (VALUES ($1::uuid)) AS v (id) LEFT JOIN batch_total t ON t.batch_id = v.id
"""

# By status the index (batch_id, status, index) has the order of each; a page reads one page of each status.
_ITEM: Final = """
    i.*, n.key, n.payload, n.current, o.output, r.status AS verdict, r.reason AS why, r.reviewer, r.edited,
    r.review_time, d.id AS deed, d.by_run, w.id AS undo, w.by_run AS undo_by_run
"""
ITEMS: Final = f"""
SELECT {_ITEM} FROM (
    SELECT p.* FROM unnest($3::smallint[]) AS u (status) CROSS JOIN LATERAL (
        SELECT * FROM batch_item i
        WHERE i.batch_id = $1 AND i.status = u.status AND i.index > $2
              AND ($4 = '' OR i.label = $4) AND ($5 = '' OR i.failure ->> 'reason' = $5)
              AND ($6::float8 = 0 OR i.confidence < $6)
              AND (cardinality($7::text[]) = 0 OR i.index = ANY(ARRAY(
                  SELECT k.index FROM batch_input k WHERE k.batch_id = $1 AND k.key = ANY($7))))
              AND (NOT $9::boolean OR (
                  SELECT output_differs(coalesce(r.edited, o.output), n.current) FROM batch_input n
                  JOIN batch_output o ON o.batch_id = $1 AND o.index = i.index
                  LEFT JOIN batch_review r ON r.batch_id = $1 AND r.index = i.index
                  WHERE n.batch_id = $1 AND n.index = i.index))
        ORDER BY i.index LIMIT $8
    ) p
    ORDER BY p.index LIMIT $8
) i
CROSS JOIN LATERAL (
    SELECT * FROM batch_input n WHERE n.batch_id = $1 AND n.index = i.index LIMIT 1
) n
LEFT JOIN batch_output o ON o.batch_id = $1 AND o.index = i.index
LEFT JOIN batch_review r ON r.batch_id = $1 AND r.index = i.index
LEFT JOIN batch_deed d ON d.batch_id = $1 AND d.purpose = 1 AND d.index = i.index
LEFT JOIN batch_deed w ON w.batch_id = $1 AND w.purpose = 2 AND w.index = i.index
ORDER BY i.index
"""  # noqa: S608 - a constant of ours

THESE: Final = f"""
SELECT {_ITEM} FROM batch_item i
JOIN batch_input n ON n.batch_id = $1 AND n.index = i.index
LEFT JOIN batch_output o ON o.batch_id = $1 AND o.index = i.index
LEFT JOIN batch_review r ON r.batch_id = $1 AND r.index = i.index
LEFT JOIN batch_deed d ON d.batch_id = $1 AND d.purpose = 1 AND d.index = i.index
LEFT JOIN batch_deed w ON w.batch_id = $1 AND w.purpose = 2 AND w.index = i.index
WHERE i.batch_id = $1 AND i.index = ANY($2::bigint[])
ORDER BY i.index
"""  # noqa: S608 - a constant of ours


async def get(connection: Connection, tenant: str, batch_id: UUID) -> BatchView:
    """Read a batch. Raises `BatchNotFound`."""
    row = await connection.fetchrow(GET, batch_id, tenant)
    if row is None:
        raise unknown(batch_id)
    return view(row)


async def list_batches(
    connection: Connection, tenant: str, which: BatchFilter, *, limit: int, before: int | None = None
) -> tuple[list[BatchView], int | None]:
    """Read a page of batches, the newest first, and where the next goes on; None on the last."""
    rows = await connection.fetch(
        LIST,
        tenant,
        2**62 if before is None else before,
        [int(status) for status in which.statuses],
        which.intent,
        json.dumps(which.labels),
        limit + 1,
    )
    views = [view(row) for row in rows[:limit]]
    return views, views[-1].seq if len(rows) > limit else None


async def progress(connection: Connection, batch: BatchView) -> BatchProgress:
    """Read the counters of a batch."""
    row = await connection.fetchrow(PROGRESS, batch.batch_id)
    found = {name: json.loads(row[name] or "null") for name in ("counts", "pace", "latency", "errors")}
    counts = {ItemStatus(int(status)): n for status, n in (found["counts"] or {}).items()}
    return BatchProgress(
        total=sum(counts.values()),
        counts={status: counts[status] for status in sorted(counts)},
        usage=Usage(row["steps"], row["tools"], row["tokens"], row["context"]),
        pace=tuple(Slot(*slot) for slot in found["pace"] or ()),
        latency={int(bucket): n for bucket, n in (found["latency"] or {}).items()},
        errors=tuple(
            ErrorGroup(reason, n, message, tuple(indexes))
            for reason, n, message, indexes in found["errors"] or ()
        ),
        now=row["now"],
    )


async def list_items(
    connection: Connection, batch_id: UUID, which: ItemFilter, *, limit: int, after: int = -1
) -> tuple[list[ItemView], int | None]:
    """Read a page of items by index, and the index to go on after; None on the last."""
    rows = await connection.fetch(
        ITEMS,
        batch_id,
        after,
        [int(status) for status in which.statuses or ItemStatus],
        which.label,
        which.failure_reason,
        which.max_confidence,
        list(which.keys),
        limit + 1,
        which.changed,
    )
    views = [_item(row) for row in rows[:limit]]
    return views, views[-1].index if len(rows) > limit else None


async def these_items(connection: Connection, batch_id: UUID, indexes: Sequence[int]) -> list[ItemView]:
    """Read items by index."""
    return [_item(row) for row in await connection.fetch(THESE, batch_id, list(indexes))]


def unknown(batch_id: UUID) -> BatchNotFound:
    """Return the fault of a batch that the tenant does not have."""
    return BatchNotFound("There is no such batch.", facts={"batch_id": str(batch_id)})


def view(row: Any) -> BatchView:
    """Read a row of a batch."""
    values = {name: row[name] for name in BatchView.__dataclass_fields__}
    resume = row["resume_status"]
    return BatchView(
        **values
        | {
            "status": BatchStatus(row["status"]),
            "resume_status": BatchStatus(resume) if resume else None,
        }
    )


def _item(row: Any) -> ItemView:
    return ItemView(
        index=row["index"],
        key=row["key"],
        payload=row["payload"],
        current=row["current"],
        status=ItemStatus(row["status"]),
        run_id=row["run_id"],
        attempts=row["attempts"],
        output=row["output"],
        label=row["label"],
        confidence=row["confidence"],
        usage=Usage(row["steps"], row["tools"], row["tokens"], row["context"]),
        failure=_failure(row["failure"]),
        update_time=row["update_time"],
        review=_said(row),
        effect_id=None if row["by_run"] else row["deed"],
        follow_up_run_id=row["deed"] if row["by_run"] else None,
        undo_effect_id=None if row["undo_by_run"] else row["undo"],
        undo_run_id=row["undo"] if row["undo_by_run"] else None,
    )


def _said(row: Any) -> Said | None:
    if row["verdict"] is None:
        return None
    accepted = row["verdict"] == int(ItemStatus.ACCEPTED)
    return Said(accepted, row["why"], row["reviewer"], row["edited"], row["review_time"])


def _failure(text: str | None) -> Failure | None:
    if text is None:
        return None
    found = json.loads(text)
    return Failure(
        found.get("reason", ""), found.get("message", ""), found.get("step", ""), found.get("attempts", 0)
    )
