"""Judging, applying and undoing find their rows by an index, however many batches there are."""

from collections.abc import AsyncIterator

import pytest

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger import (
    batch_deed,
    batch_failed,
    batch_lock,
    batch_news,
    batch_resend,
    batch_review,
    batch_sample,
    batch_target,
    batch_undo,
    batch_view,
    batch_work,
)
from tests.ledger.test_plans import VERBS, plan_of, whole_table_reads
from tests.support.database import cloned_database
from tests.support.ledger import FILL_TIMEOUT_S, execute, open_ledger

MODULES = (
    batch_deed,
    batch_failed,
    batch_lock,
    batch_news,
    batch_resend,
    batch_review,
    batch_sample,
    batch_target,
    batch_undo,
    batch_work,
)
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name.lstrip('_')}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, str) and value.strip().startswith(VERBS)
} | {"batch_view.ITEMS": batch_view.ITEMS, "batch_view.THESE": batch_view.THESE}

# Batches that something is to be done for, and what has just come in: read from the front.
SMALL = {"batch_applying", "batch_news"}

FILL = (
    """INSERT INTO batch (batch_id, tenant, intent, idempotency_key, fingerprint, spec, status, skip_staging,
                          in_order, start_when_uploaded, max_parallelism, priority, max_attempts,
                          initial_backoff_ms, max_backoff_ms, tolerated_items, tolerated_share, label_field,
                          confidence_field)
       SELECT md5(n::text)::uuid, 'acme', 'count', n::text, '', '', 4, false, false, false, 1, 0, 1, 1, 1, 0,
              1, '', '' FROM generate_series(1, 80) AS n""",
    """INSERT INTO batch_item (batch_id, index, status, failure)
       SELECT batch_id, n, 3 + n % 9, '{"reason": "R"}' FROM batch, generate_series(0, 199) AS n""",
    """INSERT INTO batch_input (batch_id, index, key, payload)
       SELECT batch_id, index, index::text, '{}' FROM batch_item""",
    "INSERT INTO batch_output (batch_id, index, output) SELECT batch_id, index, '{}' FROM batch_item",
    """INSERT INTO batch_review (batch_id, index, status, reason, reviewer, single)
       SELECT batch_id, index, 4, '', '', true FROM batch_item""",
    """INSERT INTO batch_deed (id, batch_id, index, purpose, by_run)
       SELECT gen_random_uuid(), batch_id, index, p, false FROM batch_item, generate_series(1, 2) AS p""",
    "INSERT INTO batch_count SELECT batch_id, s, 1 FROM batch, generate_series(1, 13) AS s",
    """INSERT INTO batch_pace SELECT batch_id, s, s, 1, 1 FROM batch, generate_series(0, 15) AS s""",
    "INSERT INTO batch_news (id, done) SELECT id, true FROM batch_deed WHERE seq % 50 = 0",
    """INSERT INTO destination (tenant, name, url, secret_name, headers, max_concurrent, max_per_second,
                                timeout_ms, max_attempts, initial_backoff_ms, max_backoff_ms, delivery_mode,
                                breaker_failures, breaker_reset_ms)
       SELECT n::text, 'crm', '', '', '{}', 1, 0, 1, 1, 1, 1, 1, 1, 1 FROM generate_series(1, 2000) AS n""",
    """INSERT INTO run_outcome (run_id, status) SELECT id, 5 FROM batch_deed""",
)


@pytest.fixture
async def large(migrated_postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    async with cloned_database(migrated_postgres) as url, open_ledger(url) as db:
        async with db.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute("SET LOCAL session_replication_role = replica")  # no triggers
            for statement in FILL:
                await connection.execute(statement, timeout=FILL_TIMEOUT_S)
        await execute(db, "VACUUM ANALYZE")
        yield db


async def test_every_statement_of_the_second_half_finds_its_rows_by_an_index(large: Database) -> None:
    assert len(STATEMENTS) > 25
    guilty = {}
    for name, statement in STATEMENTS.items():
        found = [
            read
            for read in whole_table_reads(await plan_of(large, statement))
            if read.rpartition(" ")[2] not in SMALL
        ]
        if found:
            guilty[name] = found
    assert not guilty, "\n".join(f"{name}: {reads}" for name, reads in guilty.items())
