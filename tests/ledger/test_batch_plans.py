"""No step of a batch reads more than what it moves, and progress costs the same for any size."""

import json
from collections.abc import AsyncIterator

import pytest

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger import batch, batch_retry, batch_sql, batch_view
from tests.ledger.test_plans import VERBS, plan_of, whole_table_reads
from tests.support.database import cloned_database
from tests.support.ledger import execute, open_ledger

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name.lstrip('_')}": value
    for module in (batch, batch_sql, batch_retry, batch_view)
    for name, value in vars(module).items()
    if isinstance(value, str) and value.strip().startswith((*VERBS, "("))
}
ONE = "00000000-0000-0000-0000-000000000001"
LARGEST = "00000000-0000-0000-0000-000000000002"
FILL = (
    """INSERT INTO batch (batch_id, tenant, intent, idempotency_key, fingerprint, spec, skip_staging,
                          in_order, start_when_uploaded, max_parallelism, priority, max_attempts,
                          initial_backoff_ms, max_backoff_ms, tolerated_items, tolerated_share,
                          label_field, confidence_field, status)
       SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 't' || n % 100, 'count', n::text,
              '', '', false, false, false, 100, 0, 1, 100, 100, 0, 0, '', '', 3
       FROM generate_series(1, 3000) AS n""",
    "INSERT INTO batch_active SELECT batch_id, tenant FROM batch",
    """INSERT INTO batch_input SELECT batch_id, i, i::text, '{}'
       FROM batch, generate_series(0, CASE seq WHEN 2 THEN 30000 ELSE 9 END) AS i""",
    """INSERT INTO batch_item (batch_id, index, status, not_before, failure)
       SELECT batch_id, index, CASE index % 5 WHEN 0 THEN 1 WHEN 1 THEN 6 ELSE 3 END,
              CASE WHEN index % 25 = 0 THEN now() + interval '1 h' END,
              CASE index % 5 WHEN 1 THEN '{"reason": "ODD"}'::jsonb END FROM batch_input""",
    "UPDATE batch_item SET status = 2 WHERE index < 2",
    "INSERT INTO batch_output SELECT batch_id, index, '{}' FROM batch_item WHERE status = 3",
    "INSERT INTO batch_run SELECT gen_random_uuid(), batch_id, index FROM batch_item WHERE status = 2",
    "INSERT INTO batch_count SELECT batch_id, status, count(*) FROM batch_item GROUP BY 1, 2",
    "INSERT INTO batch_total (batch_id) SELECT batch_id FROM batch",
    "INSERT INTO batch_pace SELECT batch_id, s, s, 1, 1 FROM batch, generate_series(0, 15) AS s",
    "INSERT INTO batch_latency SELECT batch_id, s, 1 FROM batch, generate_series(0, 20) AS s",
    """INSERT INTO batch_error SELECT batch_id, 'R' || s, 1, '', '{1}'
       FROM batch, generate_series(1, 3) AS s""",
    "INSERT INTO tenant (tenant) SELECT 't' || n FROM generate_series(1, 3000) AS n ON CONFLICT DO NOTHING",
)


@pytest.fixture
async def large(migrated_postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """Many batches, and one that is large."""
    async with cloned_database(migrated_postgres) as url, open_ledger(url) as db:
        for statement in FILL:
            await execute(db, statement)
        await execute(db, "VACUUM ANALYZE")
        yield db


async def test_every_statement_of_batches_finds_its_rows_by_an_index_and_progress_costs_the_same(
    large: Database,
) -> None:
    assert len(STATEMENTS) > 25
    guilty = {}
    for name, statement in STATEMENTS.items():
        found = [
            read
            for read in whole_table_reads(await plan_of(large, statement))
            if not read.endswith("of run_state")  # empty here; `test_plans` has it large
        ]
        if found:
            guilty[name] = found
    assert not guilty, "\n".join(f"{name}: {reads}" for name, reads in guilty.items())
    small, big = [await _pages(large, batch_view.PROGRESS, batch_id) for batch_id in (ONE, LARGEST)]
    assert big <= small + 5, (small, big)
    small, big = [await _pages(large, batch_sql.DUE, batch_id, 10) for batch_id in (ONE, LARGEST)]
    assert big <= small + 20, (small, big)


async def _pages(db: Database, statement: str, *values: object) -> int:
    """Return how many pages a statement touches."""
    async with db.connection() as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *values)
        await connection.execute("RESET plan_cache_mode")
    plan = json.loads(text)[0]["Plan"]
    pages: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return pages
