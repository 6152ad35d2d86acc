"""The outbox reads about what it takes: no verb reads a whole table, however much waits."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from holdfast.dispatcher.breaker import judge
from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger import outbox, outbox_claim, outbox_inspect, outbox_person, outbox_settle, outbox_sweep
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.outbox_inspect import EffectFilter
from tests.support.database import cloned_database
from tests.support.ledger import FILL_TIMEOUT_S
from tests.support.outbox import came_of, expire, make_destination, open_database, open_session, stage, staged

DESTINATIONS: Final = 300
EFFECTS: Final = 60_000

_FILL: Final = """
WITH written AS (
    INSERT INTO effect (effect_id, tenant, destination_id, run_id, step, idempotency_key, ordering_key,
                        traceparent, body, status, next_attempt_time)
    SELECT gen_random_uuid(), 'default', first.id + n % $2, gen_random_uuid(), '', '',
           CASE WHEN n % 2 = 0 THEN 'lane' || n / 50 ELSE '' END, '', '{}', 1, now()
    FROM generate_series(1, $1) n, (SELECT min(destination_id) AS id FROM destination) first
    RETURNING effect_id, destination_id, ordering_key, seq, next_attempt_time
), headed AS (
    INSERT INTO effect_lane (destination_id, ordering_key, head)
    SELECT DISTINCT ON (destination_id, ordering_key) destination_id, ordering_key, effect_id
    FROM written WHERE ordering_key <> '' ORDER BY destination_id, ordering_key, seq
    RETURNING head
), waiting AS (
    INSERT INTO effect_waiting (destination_id, ordering_key, seq, effect_id)
    SELECT destination_id, ordering_key, seq, effect_id FROM written
    WHERE ordering_key <> '' AND effect_id NOT IN (SELECT head FROM headed)
)
INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key)
SELECT destination_id, next_attempt_time, seq, effect_id, ordering_key FROM written
WHERE ordering_key = '' OR effect_id IN (SELECT head FROM headed)
"""


@pytest.fixture
async def large(migrated_postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A ledger in which much waits, and for the planner as it was when it was empty."""
    async with cloned_database(migrated_postgres) as url, open_database(url) as db:
        for n in range(DESTINATIONS):
            await make_destination(db, f"d{n}", max_concurrent=1000)
        async with db.connection() as connection:
            await connection.execute("SET enable_hashjoin = on")
            await connection.execute("SET statement_timeout = 0")
            await connection.execute(_FILL, EFFECTS, DESTINATIONS, timeout=FILL_TIMEOUT_S)
            await connection.execute("RESET statement_timeout")
            await connection.execute("SET enable_hashjoin = off")
        yield db


@asynccontextmanager
async def reading(db: Database, *, most: int) -> AsyncIterator[Any]:
    """Give a transaction that may read at most so many rows, by index or by scanning whole tables."""
    async with db.transaction() as connection:
        before = await _rows_read(connection)
        yield connection
        after = await _rows_read(connection)
    read = {table: rows - before.get(table, 0) for table, rows in after.items()}
    assert sum(read.values()) <= most, read


async def _rows_read(connection: Any) -> dict[str, int]:
    """Return the rows that this connection has read so far, as far as they are not reported yet."""
    rows = await connection.fetch(
        "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS read FROM pg_stat_xact_user_tables"
        " WHERE schemaname = 'holdfast' AND seq_tup_read + coalesce(idx_tup_fetch, 0) > 0"
    )
    return {row["relname"]: row["read"] for row in rows}


@pytest.mark.parametrize("analyzed", [False, True], ids=["with stale statistics", "with fresh statistics"])
async def test_each_verb_reads_about_what_it_takes(large: Database, *, analyzed: bool) -> None:
    if analyzed:
        async with large.connection() as connection:
            await connection.execute("ANALYZE")
    session_id = await open_session(large)
    async with reading(large, most=3_000) as connection:
        claimed = await outbox_claim._claim(connection, session_id, 100, 0)
    assert len(claimed.deliveries) == 100
    outcomes = [
        came_of(delivery, EffectStatus.DELIVERED if n % 3 else EffectStatus.PENDING)
        for n, delivery in enumerate(claimed.deliveries[:80])
    ]
    async with reading(large, most=3_000) as connection:
        settled = await outbox_settle.settle_in(connection, session_id, outcomes, judge)
    assert len(settled) == 80
    await expire(large, session_id)
    async with reading(large, most=1_000) as connection:
        assert await outbox_sweep._free(connection, session_id, 500) == 20
    async with reading(large, most=3_000) as connection:
        effects = [staged(f"d{n}", ordering_key="a" if n % 2 else "") for n in range(100)]
        await outbox.stage(connection, effects)


@pytest.mark.parametrize(
    "statement", [outbox_settle._SETTLE, outbox_settle._SETTLE_PLAIN], ids=["whole", "plain"]
)
async def test_leases_are_settled_by_their_effects_and_not_among_all_of_their_session(
    migrated_postgres: EmbeddedPostgres, statement: str
) -> None:
    async with cloned_database(migrated_postgres) as url, open_database(url) as db:
        await make_destination(db, "d", max_concurrent=1000)
        session_id = await open_session(db)
        await stage(db, *(staged("d") for _ in range(500)))
        async with db.connection() as connection:
            await connection.execute("VACUUM ANALYZE effect_lease")  # nothing was leased
        await outbox_claim.claim(db, session_id, wanted=500)
        async with db.connection() as connection:
            await connection.execute(f"PREPARE settling AS {statement}")
            rows = await connection.fetch(f"EXPLAIN EXECUTE settling ({', '.join(['NULL'] * 12)})")
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan using effect_lease_pkey" in plan, plan


@pytest.mark.parametrize(
    "wanted",
    [
        EffectFilter(),
        EffectFilter(destination="d7"),
        EffectFilter(run_id=uuid.UUID(int=1)),
        *(EffectFilter(statuses=frozenset({status})) for status in EffectStatus),
        *(EffectFilter(statuses=frozenset({status}), destination="d7") for status in EffectStatus),
    ],
    ids=str,
)
async def test_a_page_reads_about_a_page(large: Database, wanted: EffectFilter) -> None:
    session_id = await open_session(large)
    await outbox_claim.claim(large, session_id, wanted=5)
    for before_seq in (None, EFFECTS // 2):
        async with reading(large, most=1_000) as connection:
            await outbox_inspect.page(connection, "default", wanted, before_seq=before_seq, limit=50)


async def test_what_a_person_does_reads_little(large: Database) -> None:
    effect = staged("d7", ordering_key="a")
    await stage(large, effect)
    view = await outbox_person.discard(large, "default", effect.effect_id, "why")
    assert view.status is EffectStatus.DISCARDED
    async with reading(large, most=100) as connection:
        await connection.fetch(outbox_person._DISCARD, effect.effect_id, "again")
        await connection.fetch(outbox_person._SEND_AGAIN, effect.effect_id, False)
