"""Batches: made once by their key, filled in order from an offset, and moved as people ask.

Every verb here is repeatable: it asks for what is to be, and leaves what already is. Verbs that move items
lock the tenant first, as the ends of runs do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import BatchNotReady, IdempotencyKeyReused, InvalidField, StreamProtocol, Violation
from holdfast.ledger.batch_lock import hold, hold_row, needs_applying
from holdfast.ledger.batch_view import BatchView, view
from holdfast.ledger.domain.batch import BATCH_MOVES, BatchStatus

B = BatchStatus
_PAUSABLE: Final = frozenset({B.RUNNING, B.APPLYING, B.ROLLING_BACK})


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch that passed the checks of the door; backoffs in milliseconds."""

    batch_id: UUID
    tenant: str
    intent: str
    idempotency_key: str
    fingerprint: bytes
    spec: bytes
    labels: str = "{}"
    schedule: str = ""
    skip_staging: bool = False
    in_order: bool = False
    start_when_uploaded: bool = False
    max_parallelism: int = 100
    priority: int = 0
    max_attempts: int = 1
    initial_backoff_ms: int = 100
    max_backoff_ms: int = 30_000
    tolerated_items: int = 0
    tolerated_share: float = 0.0
    label_field: str = ""
    confidence_field: str = ""
    review: bytes | None = None
    min_accepted_share: float = 0.0
    min_judged: int = 0
    reviewer_intent: str = ""
    apply_when_met: bool = False
    apply_target: bytes | None = None
    apply_destination: str = ""
    undo_destination: str = ""


@dataclass(frozen=True, slots=True)
class ReviewRule:
    """When staged outputs are accepted without a person; `stored` is the whole of it."""

    stored: bytes
    min_accepted_share: float = 0.0
    min_judged: int = 0
    reviewer_intent: str = ""
    apply_when_met: bool = False


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item as it is stored; JSON."""

    key: str
    payload: bytes
    current: bytes | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A batch, and whether it was there before."""

    batch: BatchView
    reattached: bool


_NEW: Final = tuple(NewBatch.__dataclass_fields__)
_MAKE: Final = f"""
INSERT INTO batch ({", ".join(_NEW)})
VALUES ({", ".join(f"${at}::text::jsonb" if n == "labels" else f"${at}" for at, n in enumerate(_NEW, 1))})
ON CONFLICT (tenant, idempotency_key) DO NOTHING RETURNING *
"""  # noqa: S608 - constants of ours
_BY_KEY: Final = "SELECT * FROM batch WHERE tenant = $1 AND idempotency_key = $2"

# $2 is the index of the first.
_APPEND: Final = """
WITH new AS MATERIALIZED (
    SELECT u.*, $2::bigint + u.place - 1 AS index
    FROM unnest($3::text[], $4::bytea[], $5::bytea[]) WITH ORDINALITY AS u (key, payload, current, place)
), inputs AS (
    INSERT INTO batch_input (batch_id, index, key, payload, current)
    SELECT $1, index, key, payload, current FROM new
), items AS (
    INSERT INTO batch_item (batch_id, index) SELECT $1, index FROM new
), counted AS (
    INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 1, count(*) FROM new
    ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
)
UPDATE batch SET uploaded = uploaded + (SELECT count(*) FROM new) WHERE batch_id = $1 RETURNING uploaded
"""
_TAKEN: Final = "SELECT key FROM batch_input WHERE batch_id = $1 AND key = ANY($2::text[]) LIMIT 1"

_MOVE: Final = """
UPDATE batch
SET status = $2::smallint, resume_status = $3, reason = $4,
    start_time = CASE WHEN $2::smallint = 3 THEN coalesce(start_time, clock_timestamp()) ELSE start_time END,
    end_time = CASE WHEN $2::smallint IN (6, 8, 10, 11) THEN clock_timestamp() END
WHERE batch_id = $1 RETURNING *
"""
_ACTIVE: Final = "INSERT INTO batch_active (batch_id, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_FORGIVE: Final = """
UPDATE batch b
SET forgiven_skipped = coalesce((SELECT n FROM batch_count c WHERE c.batch_id = $1 AND c.status = 6), 0),
    forgiven_ended = coalesce((SELECT sum(n) FROM batch_count c
                               WHERE c.batch_id = $1 AND c.status NOT IN (1, 2)), 0),
    tolerated_items = coalesce($2, tolerated_items), tolerated_share = coalesce($3, tolerated_share)
WHERE batch_id = $1
"""
_STOP_RUNS: Final = """
WITH flying AS MATERIALIZED (
    SELECT s.run_id FROM batch_run r JOIN run_state s ON s.run_id = r.run_id
    WHERE r.batch_id = $1 AND s.end_time IS NULL AND s.undoing IS NULL
    ORDER BY s.run_id FOR NO KEY UPDATE OF s
)
UPDATE run_state
SET cancel_requested = true, cancel_reason = CASE WHEN cancel_requested THEN cancel_reason ELSE $2 END
WHERE run_id = ANY(ARRAY(SELECT run_id FROM flying))
"""
_UPDATE: Final = """
UPDATE batch
SET max_parallelism = coalesce($2, max_parallelism), priority = coalesce($3, priority),
    tolerated_items = coalesce($4, tolerated_items), tolerated_share = coalesce($5, tolerated_share),
    apply_per_second = coalesce($6, apply_per_second)
WHERE batch_id = $1 RETURNING *
"""
_RULE: Final = """
UPDATE batch
SET review = $2, min_accepted_share = $3, min_judged = $4, reviewer_intent = $5, apply_when_met = $6
WHERE batch_id = $1 RETURNING *
"""


async def create(db: Database, new: NewBatch) -> Made:
    """Make a batch, or find the one its key stands for. Raises `IdempotencyKeyReused`."""
    async with db.connection() as connection:
        row = await connection.fetchrow(_MAKE, *(getattr(new, name) for name in _NEW))
        made = row is not None
        if row is None:
            row = await connection.fetchrow(_BY_KEY, new.tenant, new.idempotency_key)
    if not made and row["fingerprint"] != new.fingerprint:
        raise IdempotencyKeyReused(
            "The idempotency key stands for another batch.", facts={"batch_id": str(row["batch_id"])}
        )
    return Made(view(row), reattached=not made)


async def append(db: Database, tenant: str, batch_id: UUID, offset: int, items: Sequence[NewItem]) -> int:
    """Store items from `offset` on, and return where the next goes; those below what is stored are ignored.

    An empty key becomes the item's index. Raises `StreamProtocol` for a gap, `InvalidField` for a key twice,
    `BatchNotReady` for new items once the upload is complete, and `BatchNotFound`.
    """
    async with db.transaction() as connection:
        row = await hold_row(connection, tenant, batch_id)
        stored: int = row["uploaded"]
        if offset > stored:
            raise StreamProtocol(f"The chunk begins at {offset}; the next item is {stored}.")
        fresh = items[stored - offset :]
        if not fresh:
            return stored
        if B(row["status"]) is not B.UPLOADING:
            raise refused(view(row), "takes no more items")
        keys = [item.key or str(stored + place) for place, item in enumerate(fresh)]
        await _refuse_twice(connection, batch_id, keys, stored - offset)
        total: int = await connection.fetchval(
            _APPEND,
            batch_id,
            stored,
            keys,
            [item.payload for item in fresh],
            [item.current for item in fresh],
        )
        return total


async def _refuse_twice(connection: Connection, batch_id: UUID, keys: Sequence[str], skipped: int) -> None:
    seen: set[str] = set()
    taken = await connection.fetchval(_TAKEN, batch_id, list(keys))
    for place, key in enumerate(keys):
        if key in seen or key == taken:
            wrong = Violation(f"chunk.items[{place + skipped}].key", f"is there already: {key!r}")
            raise InvalidField("A key stands for two items.", violations=[wrong])
        seen.add(key)


async def complete(db: Database, tenant: str, batch_id: UUID, count: int) -> BatchView:
    """Say that all `count` items are here, and start the batch if it is to start then."""

    async def once() -> BatchView:
        async with db.transaction() as connection:
            row = await hold_row(connection, tenant, batch_id)
            if row["uploaded"] != count:
                raise StreamProtocol(f"{row['uploaded']} items are stored, not {count}.")
            if B(row["status"]) is not B.UPLOADING:
                return view(row)
            after = B.RUNNING if row["start_when_uploaded"] else B.READY
            return await move(connection, row, after)

    return await db.retrying(once)


async def start(db: Database, tenant: str, batch_id: UUID) -> BatchView:
    """Start a batch whose items are all here."""
    return await _moved(db, tenant, batch_id, B.RUNNING, after=frozenset({B.READY}), verb="cannot be started")


async def pause(db: Database, tenant: str, batch_id: UUID, reason: str) -> BatchView:
    """Start no further items; those in flight end."""
    return await _moved(
        db, tenant, batch_id, B.PAUSED, after=_PAUSABLE, verb="cannot be paused", reason=reason
    )


async def resume(
    db: Database, tenant: str, batch_id: UUID, tolerance: tuple[int, float] | None = None
) -> BatchView:
    """Go on where a batch was paused; failures until now count no longer."""

    async def once() -> BatchView:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            status = B(row["status"])
            if status is not B.PAUSED:
                if status in _PAUSABLE:
                    return view(row)
                raise refused(view(row), "is not paused")
            await connection.execute(_FORGIVE, batch_id, *(tolerance or (None, None)))
            return await move(connection, row, B(row["resume_status"]))

    return await db.retrying(once)


async def cancel(db: Database, tenant: str, batch_id: UUID, reason: str) -> BatchView:
    """End a batch: what waits is not run, runs in flight are asked to stop.

    Those that are leased are told by the heartbeats, the others end in the next `orphan.cancel_orphans`.
    """

    async def once() -> BatchView:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            status = B(row["status"])
            if status is B.CANCELLED:
                return view(row)
            if B.CANCELLED not in BATCH_MOVES.get(status, ()):
                raise refused(view(row), "has ended")
            await connection.execute(_STOP_RUNS, batch_id, reason or "The batch was cancelled.")
            return await move(connection, row, B.CANCELLED, reason=reason)

    return await db.retrying(once)


async def update(
    db: Database,
    tenant: str,
    batch_id: UUID,
    *,
    max_parallelism: int | None = None,
    priority: int | None = None,
    tolerance: tuple[int, float] | None = None,
    review: ReviewRule | None = None,
    apply_per_second: float | None = None,
) -> BatchView:
    """Change what is given; it holds for the items started, judged or applied next.

    Raises `BatchNotFound`, `BatchNotReady`, and `InvalidField` for a policy that applies what has no target.
    """
    async with db.transaction() as connection:
        row = await hold(connection, tenant, batch_id)
        if row["end_time"] is not None:
            raise refused(view(row), "has ended")
        if review is not None and review.apply_when_met and not row["apply_target"]:
            wrong = Violation("review.apply_when_met", "needs a target, which the batch has none of")
            raise InvalidField(f"{wrong.field} {wrong.description}", violations=[wrong])
        row = await connection.fetchrow(
            _UPDATE, batch_id, max_parallelism, priority, *(tolerance or (None, None)), apply_per_second
        )
        if review is not None:
            row = await connection.fetchrow(
                _RULE,
                batch_id,
                review.stored,
                review.min_accepted_share,
                review.min_judged,
                review.reviewer_intent,
                review.apply_when_met,
            )
            await needs_applying(connection, row)
        return view(row)


async def move(connection: Connection, row: Any, after: BatchStatus, *, reason: str = "") -> BatchView:
    """Write the status of a locked batch, and whether something is to be done for it."""
    before = B(row["status"])
    assert after in BATCH_MOVES[before], f"{before.name} to {after.name}"
    resume_status = before if after is B.PAUSED else 0
    moved = await connection.fetchrow(_MOVE, row["batch_id"], int(after), int(resume_status), reason)
    if after in (B.RUNNING, B.CANCELLED):
        await connection.execute(_ACTIVE, row["batch_id"], row["tenant"])
    return view(moved)


def refused(batch: BatchView, why: str) -> BatchNotReady:
    """Return the fault of a verb that makes no sense where the batch stands."""
    status = batch.status.name
    return BatchNotReady(
        f"The batch is {status}: it {why}.", facts={"batch_id": str(batch.batch_id), "status": status}
    )


async def _moved(
    db: Database,
    tenant: str,
    batch_id: UUID,
    to: BatchStatus,
    *,
    after: frozenset[BatchStatus],
    verb: str,
    reason: str = "",
) -> BatchView:
    async def once() -> BatchView:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            if B(row["status"]) is to:
                return view(row)
            if B(row["status"]) not in after:
                raise refused(view(row), verb)
            return await move(connection, row, to, reason=reason)

    return await db.retrying(once)
