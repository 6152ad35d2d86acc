"""What an Invoker does for a batch, one step after the other: start a chunk of items, pause, finish, clear.

A chunk is admitted and its items moved in one transaction, so an item has a run or waits, never both; the end
of the run moves it on in the transaction that ends the run. Wherever everything stops, it goes on from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import QueueFull, RateLimited
from holdfast.ledger import batch
from holdfast.ledger.admission import Placements, admit_within
from holdfast.ledger.domain.batch import (
    CHUNK,
    Admit,
    BatchStatus,
    Clear,
    Finish,
    ItemStatus,
    Pause,
    Rest,
    Standing,
    Tolerance,
    next_step,
)
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.values import Admitted, Failure, Invocation, Refused


@dataclass(frozen=True, slots=True)
class Due:
    """An item that is to be started, for the `attempt`th time."""

    tenant: str
    batch_id: UUID
    index: int
    attempt: int
    payload: bytes
    spec: bytes
    priority: int


@dataclass(frozen=True, slots=True)
class Active:
    """A batch for which something may be to be done."""

    batch_id: UUID
    tenant: str


@dataclass(slots=True)
class Advanced:
    """What was done: items moved, pools that got work, and whether the batch needs nobody any more."""

    items: int = 0
    pools: list[str] = field(default_factory=list)
    rests: bool = False


Compose = Callable[[Due], Invocation]
"""Makes the envelope of an item's run."""

_ACTIVE: Final = """
SELECT batch_id, tenant FROM batch_active WHERE batch_id > $1 ORDER BY batch_id LIMIT $2
"""
_BATCH: Final = "SELECT * FROM batch WHERE batch_id = $1 AND tenant = $2 FOR NO KEY UPDATE"
_COUNTS: Final = "SELECT status, n FROM batch_count WHERE batch_id = $1"
_LEAVE: Final = "DELETE FROM batch_active WHERE batch_id = $1"

# In order only the first counts, and it holds up those behind it until its time has come.
_DUE: Final = """
SELECT i.index, i.attempts, n.payload
FROM (
    SELECT * FROM (
        SELECT index, attempts, not_before FROM batch_item
        WHERE batch_id = $1 AND status = 1 AND ($3 OR not_before IS NULL OR not_before <= clock_timestamp())
        ORDER BY index LIMIT $2
    ) f
    WHERE f.not_before IS NULL OR f.not_before <= clock_timestamp()
) i
CROSS JOIN LATERAL (
    SELECT payload FROM batch_input n WHERE n.batch_id = $1 AND n.index = i.index LIMIT 1
) n
ORDER BY i.index
"""

_STARTED: Final = """
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::uuid[]) AS u (index, run_id)
), flying AS (
    INSERT INTO batch_run (run_id, batch_id, index) SELECT run_id, $1, index FROM u
), moved AS (
    UPDATE batch_item i
    SET status = 2, attempts = i.attempts + 1, run_id = u.run_id, not_before = NULL, failure = NULL,
        update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
)
INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 2, count(*) FROM u
ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
"""

_SKIPPED: Final = """
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::text[]) AS u (index, failure)
), moved AS (
    UPDATE batch_item i SET status = 6, failure = u.failure::jsonb, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
), grouped AS (
    INSERT INTO batch_error AS r (batch_id, reason, n, example_message, example_indexes)
    SELECT $1, failure::jsonb ->> 'reason', count(*), min(failure::jsonb ->> 'message'),
           (array_agg(index ORDER BY index))[:10]
    FROM u GROUP BY failure::jsonb ->> 'reason'
    ON CONFLICT (batch_id, reason) DO UPDATE
    SET n = r.n + excluded.n, example_indexes = (r.example_indexes || excluded.example_indexes)[:10]
)
INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 6, count(*) FROM u
ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
"""

_CLEAR: Final = """
WITH u AS MATERIALIZED (
    SELECT index FROM batch_item WHERE batch_id = $1 AND status = 1 ORDER BY index LIMIT $2
), moved AS (
    UPDATE batch_item i SET status = 13, not_before = NULL, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
), counted AS (
    INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 13, count(*) FROM u
    ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
)
SELECT count(*) FROM u
"""
_CLEARED_AT_ONCE: Final = 5000


async def active(connection: Connection, *, after: UUID, limit: int = 100) -> list[Active]:
    """Read batches for which something may be to be done, by id."""
    rows = await connection.fetch(_ACTIVE, after, limit)
    return [Active(row["batch_id"], row["tenant"]) for row in rows]


async def advance(db: Database, which: Active, compose: Compose) -> Advanced:
    """Do the next step for a batch.

    Repeatable, by any number of Invokers at once: each step is decided under the tenant's lock. A crash does
    all of it or nothing.
    """

    async def once() -> Advanced:
        async with db.transaction() as connection:
            await lock_tenants(connection, [which.tenant])
            row = await connection.fetchrow(_BATCH, which.batch_id, which.tenant)
            counts = await connection.fetch(_COUNTS, which.batch_id)
            return await _step(connection, row, _standing(row, counts), compose)

    return await db.retrying(once)


async def _step(connection: Connection, row: Any, standing: Standing, compose: Compose) -> Advanced:
    match next_step(standing):
        case Admit(items):
            return await _admit(connection, row, items, compose)
        case Pause(reason):
            await batch.move(connection, row, BatchStatus.PAUSED, reason=reason)
        case Finish(status):
            await batch.move(connection, row, status)
        case Clear():
            return Advanced(await connection.fetchval(_CLEAR, row["batch_id"], _CLEARED_AT_ONCE))
        case Rest(done=False):
            return Advanced()
        case Rest():
            pass
    await connection.execute(_LEAVE, row["batch_id"])
    return Advanced(rests=True)


def _standing(row: Any, counts: Sequence[Any]) -> Standing:
    return Standing(
        status=BatchStatus(row["status"]),
        counts={ItemStatus(count["status"]): count["n"] for count in counts},
        max_parallelism=row["max_parallelism"],
        in_order=row["in_order"],
        skip_staging=row["skip_staging"],
        tolerance=Tolerance(row["tolerated_items"], row["tolerated_share"]),
        forgiven_skipped=row["forgiven_skipped"],
        forgiven_ended=row["forgiven_ended"],
    )


async def _admit(connection: Connection, row: Any, items: int, compose: Compose) -> Advanced:
    assert items <= CHUNK
    due = [
        Due(
            tenant=row["tenant"],
            batch_id=row["batch_id"],
            index=item["index"],
            attempt=item["attempts"] + 1,
            payload=item["payload"],
            spec=row["spec"],
            priority=row["priority"],
        )
        for item in await connection.fetch(_DUE, row["batch_id"], items, row["in_order"])
    ]
    if not due:
        return Advanced()
    answers = await admit_within(connection, [compose(item) for item in due], Placements())
    started: list[tuple[int, UUID]] = []
    skipped: list[tuple[int, str]] = []
    pools: dict[str, None] = {}
    for item, answer in zip(due, answers, strict=True):
        if isinstance(answer, Admitted) and answer.created:
            started.append((item.index, answer.run_id))
            pools[answer.pool] = None
        elif isinstance(answer, Refused) and isinstance(answer.fault, QueueFull | RateLimited):
            continue  # it waits here instead of there
        else:
            failure = Failure("IDEMPOTENCY_KEY_REUSED", "A run of someone else's has the item's key.")
            skipped.append((item.index, failure.to_json()))
    if started:
        await connection.execute(_STARTED, row["batch_id"], *map(list, zip(*started, strict=True)))
    if skipped:
        await connection.execute(_SKIPPED, row["batch_id"], *map(list, zip(*skipped, strict=True)))
    return Advanced(len(started) + len(skipped), list(pools))
