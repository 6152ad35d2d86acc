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
from holdfast.ledger.batch_lock import hold, hold_row
from holdfast.ledger.batch_view import BatchView, view
from holdfast.ledger.domain.batch import BATCH_MOVES, BatchStatus
from holdfast.ledger.release import lock_tenants

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
    sourced: bool = False


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
WITH made AS (
    INSERT INTO batch ({", ".join(_NEW)})
    VALUES ({", ".join(f"${at}::text::jsonb" if n == "labels" else f"${at}" for at, n in enumerate(_NEW, 1))})
    ON CONFLICT (tenant, idempotency_key) DO NOTHING RETURNING *
), to_read AS (
    INSERT INTO batch_source (batch_id) SELECT batch_id FROM made WHERE sourced
)
SELECT * FROM made
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
_READ: Final = "DELETE FROM batch_source WHERE batch_id = $1"
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


async def create(db: Database, new: NewBatch) -> Made:
    """Make a batch, or find the one its key stands for. Raises `IdempotencyKeyReused`."""
    async with db.connection() as connection:
        return await create_within(connection, new)


async def create_within(connection: Connection, new: NewBatch) -> Made:
    """Make a batch, as `create`, perhaps in a transaction of the caller's."""
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
        row = await _upload(connection, tenant, batch_id)
        stored: int = row["uploaded"]
        if offset > stored:
            raise StreamProtocol(f"The chunk begins at {offset}; the next item is {stored}.")
        fresh = items[stored - offset :]
        if not fresh:
            return stored
        if B(row["status"]) is not B.UPLOADING:
            raise refused(view(row), "takes no more items")
        return await store(connection, row, fresh, skipped=stored - offset)


async def store(connection: Connection, row: Any, items: Sequence[NewItem], *, skipped: int = 0) -> int:
    """Store the next items of a locked batch, as `append`; `skipped` were sent before them."""
    stored: int = row["uploaded"]
    keys = [item.key or str(stored + place) for place, item in enumerate(items)]
    await _refuse_twice(connection, row["batch_id"], keys, skipped)
    total: int = await connection.fetchval(
        _APPEND,
        row["batch_id"],
        stored,
        keys,
        [item.payload for item in items],
        [item.current for item in items],
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
            row = await _upload(connection, tenant, batch_id)
            if row["uploaded"] != count:
                raise StreamProtocol(f"{row['uploaded']} items are stored, not {count}.")
            if B(row["status"]) is not B.UPLOADING:
                return view(row)
            return await close_upload(connection, row)

    return await db.retrying(once)


async def close_upload(connection: Connection, row: Any) -> BatchView:
    """Say of a locked batch that all its items are here."""
    return await move(connection, row, B.RUNNING if row["start_when_uploaded"] else B.READY)


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
            await lock_tenants(connection, [tenant])
            return await cancel_within(connection, tenant, batch_id, reason)

    return await db.retrying(once)


async def cancel_within(connection: Connection, tenant: str, batch_id: UUID, reason: str) -> BatchView:
    """End a batch, as `cancel`, in the caller's transaction, which has locked the tenant."""
    row = await hold_row(connection, tenant, batch_id)
    status = B(row["status"])
    if status is B.CANCELLED:
        return view(row)
    if B.CANCELLED not in BATCH_MOVES.get(status, ()):
        raise refused(view(row), "has ended")
    await connection.execute(_STOP_RUNS, batch_id, reason or "The batch was cancelled.")
    return await move(connection, row, B.CANCELLED, reason=reason)


async def move(connection: Connection, row: Any, after: BatchStatus, *, reason: str = "") -> BatchView:
    """Write the status of a locked batch, and whether something is to be done for it."""
    before = B(row["status"])
    assert after in BATCH_MOVES[before], f"{before.name} to {after.name}"
    resume_status = before if after is B.PAUSED else 0
    moved = await connection.fetchrow(_MOVE, row["batch_id"], int(after), int(resume_status), reason)
    if before is B.UPLOADING:
        await connection.execute(_READ, row["batch_id"])
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


async def _upload(connection: Connection, tenant: str, batch_id: UUID) -> Any:
    row = await hold_row(connection, tenant, batch_id)
    if row["sourced"]:
        raise StreamProtocol("Nothing is sent for this batch: its items come from its source.")
    return row
