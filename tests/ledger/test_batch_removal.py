"""Batches and sessions go by their tenant's retention, as runs do, and nothing else goes."""

import uuid
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import BatchNotFound, SessionNotFound
from holdfast.ledger import batch_removal, session_removal, session_state, tenant
from holdfast.ledger.batch import NewBatch, cancel, create
from holdfast.ledger.batch_removal import remove_batch_rows, remove_batches
from holdfast.ledger.batch_view import BatchView
from holdfast.ledger.removal import Removed
from holdfast.ledger.session_removal import remove_sessions
from tests.ledger.test_removal_cost import read_by
from tests.support.batch import new_batch, seen
from tests.support.ledger import admitted, execute, fetch, invocation, open_ledger
from tests.support.outbox import make_destination
from tests.support.retention import traces

HOUR = 3600.0
ITEMS = 25


async def keep(db: Database, name: str = "acme", **shapes: float | None) -> None:
    """Set for how long things are kept, by shape."""
    await tenant.change(
        db, name, {f"keep_{shape}_s": seconds for shape, seconds in shapes.items()}, make=True
    )


async def ended(
    db: Database, ago: float, *, of: str = "acme", items: int = ITEMS, key: str = ""
) -> BatchView:
    """Return a batch that was applied and ended that long ago, each item with all that it can have."""
    more = {"idempotency_key": key} if key else {}
    which = await new_batch(db, items, tenant=of, start=False, **more)
    one = which.batch_id
    await execute(db, "UPDATE batch_item SET status = 8, run_id = gen_random_uuid() WHERE batch_id = $1", one)
    await execute(db, "DELETE FROM batch_count WHERE batch_id = $1", one)
    await execute(db, "INSERT INTO batch_count VALUES ($1, 8, $2)", one, items)
    for statement in (
        "INSERT INTO batch_output SELECT batch_id, index, '1' FROM batch_item WHERE batch_id = $1",
        """INSERT INTO batch_review (batch_id, index, status, reason, reviewer, single)
           SELECT batch_id, index, 4, '', 'ann', true FROM batch_item WHERE batch_id = $1""",
        """INSERT INTO batch_deed (id, batch_id, index, purpose, by_run)
           SELECT gen_random_uuid(), batch_id, index, 1, false FROM batch_item WHERE batch_id = $1""",
        """INSERT INTO effect (effect_id, tenant, destination_id, step, idempotency_key, ordering_key,
                               traceparent, body, status)
           SELECT id, 'acme', (SELECT min(destination_id) FROM destination), '', id::text, '', '', '', 3
           FROM batch_deed WHERE batch_id = $1""",
        "INSERT INTO effect_key SELECT 'acme', id::text, id, '' FROM batch_deed WHERE batch_id = $1",
        """INSERT INTO effect_attempt SELECT id, 1, now(), 200, NULL, 5
           FROM batch_deed WHERE batch_id = $1""",
        "INSERT INTO batch_pace VALUES ($1, 1, 1, 1, 1)",
        "INSERT INTO batch_latency VALUES ($1, 1, 1)",
        "INSERT INTO batch_error VALUES ($1, 'R', 1, '', '{1}')",
        "DELETE FROM batch_active WHERE batch_id = $1",
        "DELETE FROM batch_applying WHERE batch_id = $1",
    ):
        await execute(db, statement, one)
    await execute(
        db,
        "UPDATE batch SET status = 6, end_time = now() - make_interval(secs => $2) WHERE batch_id = $1",
        one,
        ago,
    )
    return which


async def remove_all(db: Database, *, most: int = 1000) -> int:
    """Remove until nothing is found; return how many batches were removed."""
    removed = 0
    while (done := await remove_batches(db)).removed + done.put_off:
        removed += done.removed
    while await remove_batch_rows(db, most=most):
        pass
    return removed


@pytest.fixture(autouse=True)
async def crm(db: Database) -> None:
    await make_destination(db, "crm", tenant="acme")


async def test_a_batch_goes_with_all_that_hangs_on_it(db: Database) -> None:
    await keep(db, batch=HOUR)
    which = await ended(db, HOUR + 1, key="again")
    kept = await ended(db, HOUR - 60)
    other = await ended(db, 99 * HOUR, of="else")
    deeds = [
        row["id"] for row in await fetch(db, "SELECT id FROM batch_deed WHERE batch_id = $1", which.batch_id)
    ]
    assert await remove_all(db) == 1
    assert await traces(db, which.batch_id) == set()
    for deed in deeds:
        assert await traces(db, deed) == set()
    for one in (kept, other):
        assert (await seen(db, one)).uploaded == ITEMS
        left = await fetch(
            db,
            "SELECT FROM batch_item i JOIN batch_output USING (batch_id, index) WHERE i.batch_id = $1",
            one.batch_id,
        )
        assert len(left) == ITEMS
    again = NewBatch(uuid.uuid4(), "acme", "count", "again", b"other", b"")
    assert (await create(db, again)).batch.batch_id == again.batch_id


async def test_it_is_gone_at_once_and_its_rows_go_bit_by_bit(db: Database) -> None:
    await keep(db, batch=HOUR)
    which = await ended(db, 2 * HOUR)
    assert await remove_batches(db) == Removed(1, 0)
    with pytest.raises(BatchNotFound):
        await seen(db, which)
    with pytest.raises(BatchNotFound):
        await cancel(db, "acme", which.batch_id, "")
    left = [ITEMS]
    while await remove_batch_rows(db, most=10):
        left.append(len(await fetch(db, "SELECT FROM batch_item WHERE batch_id = $1", which.batch_id)))
    assert left == [25, 15, 5, 0, 0]
    assert await traces(db, which.batch_id) == set()


@pytest.mark.parametrize(
    ("busy", "free"),
    [
        (
            "INSERT INTO batch_run VALUES (gen_random_uuid(), $1, 3)",
            "DELETE FROM batch_run WHERE batch_id = $1",
        ),
        ("INSERT INTO batch_applying VALUES ($1, 'acme')", "DELETE FROM batch_applying WHERE batch_id = $1"),
        ("INSERT INTO batch_active VALUES ($1, 'acme')", "DELETE FROM batch_active WHERE batch_id = $1"),
        (
            "UPDATE batch SET undoing = 1 WHERE batch_id = $1",
            "UPDATE batch SET undoing = 0 WHERE batch_id = $1",
        ),
        ("INSERT INTO batch_count VALUES ($1, 7, 1)", "UPDATE batch_count SET n = 0 WHERE batch_id = $1"),
        (
            """WITH i AS (UPDATE batch_item SET status = 9 WHERE batch_id = $1 AND index = 20)
               UPDATE effect SET status = 4
               FROM batch_deed WHERE id = effect_id AND batch_id = $1 AND index = 20""",
            "UPDATE effect SET status = 5 FROM batch_deed d WHERE d.id = effect_id AND d.batch_id = $1",
        ),
        ("UPDATE batch SET status = 7, end_time = NULL WHERE batch_id = $1", ""),
    ],
    ids=["run", "applying", "active", "undoing", "item", "dead letter", "rolling back"],
)
async def test_a_batch_stays_while_something_of_it_goes_on(db: Database, busy: str, free: str) -> None:
    await keep(db, batch=HOUR)
    which = await ended(db, 2 * HOUR)
    await execute(db, busy, which.batch_id)
    found = Removed(0, 1) if free else Removed()
    assert await remove_batches(db) == found
    assert await remove_batches(db) == Removed(), "it is asked again in an hour"
    if free:
        await execute(db, free, which.batch_id)
    else:
        await execute(
            db,
            "UPDATE batch SET status = 8, end_time = now() - interval '2 h' WHERE batch_id = $1",
            which.batch_id,
        )
        await execute(db, "DELETE FROM batch_applying")
    await execute(db, "UPDATE batch SET keep_from = keep_from - interval '2 h'")
    assert await remove_batches(db) == Removed(1, 0)


async def test_a_batch_that_somebody_holds_is_passed_over(db: Database) -> None:
    await keep(db, batch=HOUR)
    which = await ended(db, 2 * HOUR)
    async with db.transaction() as connection:
        await connection.execute("SELECT FROM batch WHERE batch_id = $1 FOR NO KEY UPDATE", which.batch_id)
        assert await remove_batches(db) == Removed()
    assert await remove_batches(db) == Removed(1, 0)


async def saved(db: Database, session_id: str, ago: float) -> None:
    await execute(
        db,
        """INSERT INTO session (tenant, session_id, state, version, run_id, update_time)
           VALUES ('acme', $1, '1', 1, gen_random_uuid(), now() - make_interval(secs => $2))""",
        session_id,
        ago,
    )


async def test_a_session_that_nobody_used_is_forgotten_once_its_runs_are_gone(db: Database) -> None:
    await keep(db, service=HOUR)
    await saved(db, "old", HOUR + 1)
    await saved(db, "used", HOUR - 60)
    await saved(db, "with a run", HOUR + 1)
    (run,) = await admitted(db, invocation(tenant="acme", session_id="with a run"))
    assert await remove_sessions(db) == Removed(1, 1)
    assert await remove_sessions(db) == Removed(), "the one with a run is asked again in an hour"
    async with db.connection() as connection:
        with pytest.raises(SessionNotFound):
            await session_state.get(connection, "acme", "old")
        for session_id in ("used", "with a run"):
            await session_state.get(connection, "acme", session_id)
    await execute(db, "DELETE FROM run WHERE run_id = $1", run.run_id)
    await execute(db, "UPDATE session SET keep_from = keep_from - interval '2 h'")
    assert await remove_sessions(db) == Removed(1, 0)


async def test_without_a_retention_of_their_shape_batches_and_sessions_stay(db: Database) -> None:
    await keep(db, worker=1.0)
    await ended(db, 99 * HOUR)
    await saved(db, "old", 99 * HOUR)
    assert await remove_batches(db) == Removed()
    assert await remove_sessions(db) == Removed()


async def plans_of(connection: Any, statement: str, *values: Any) -> str:
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values))


async def test_what_is_found_and_removed_is_read_by_index_and_no_more_than_that(
    db: Database, database_url: str
) -> None:
    await keep(db, batch=HOUR, service=HOUR)
    over = await ended(db, 2 * HOUR, items=300)
    beside = await ended(db, 60.0, items=300)
    await execute(
        db,
        """INSERT INTO batch (batch_id, tenant, intent, idempotency_key, fingerprint, spec, skip_staging,
               in_order, start_when_uploaded, max_parallelism, priority, max_attempts, initial_backoff_ms,
               max_backoff_ms, tolerated_items, tolerated_share, label_field, confidence_field, end_time)
           SELECT gen_random_uuid(), 'acme', 'count', 'k' || n, '', '', false, false, true, 1, 0, 1, 1, 1,
                  0, 0, '', '', now() FROM generate_series(1, 3000) AS n""",
    )
    await execute(
        db,
        """INSERT INTO session (tenant, session_id, state, version, run_id)
           SELECT 'acme', n::text, '1', 1, gen_random_uuid() FROM generate_series(1, 3000) AS n""",
    )
    await saved(db, "old", 2 * HOUR)
    await execute(db, "VACUUM ANALYZE")
    async with db.transaction() as connection:
        for statement, index in ((batch_removal.FIND, "batch_ended"), (session_removal.FIND, "session_used")):
            plan = await plans_of(connection, statement, 100)
            assert index in plan
            assert "Seq Scan on batch" not in plan
            assert "Seq Scan on session" not in plan
    # By connections that have read nothing else.
    async with open_ledger(database_url) as fresh, fresh.transaction() as connection:
        await connection.fetchval(batch_removal.REMOVE, [over.batch_id])
        assert max((await read_by(connection)).values()) <= 5
    async with open_ledger(database_url) as fresh, fresh.transaction() as connection:
        await connection.fetchval(batch_removal.REMOVE_ROWS, 100)
        read = await read_by(connection)
        assert max(read.values()) <= 3 * 100, read
    async with open_ledger(database_url) as fresh, fresh.transaction() as connection:
        await connection.fetchrow(session_removal.REMOVE, "acme", ["old"])
        assert max((await read_by(connection)).values()) <= 5
    assert (await seen(db, beside)).uploaded == 300
