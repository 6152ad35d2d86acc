"""What removal costs follows what it removes, however many runs are kept beside that."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger.removal import FIND, REMOVE
from tests.support.database import cloned_database
from tests.support.ledger import execute, fetch, fill, open_ledger
from tests.support.retention import drop, remove_all

RUNS, OVER = 40_000, 50

# Four tenants, all of whose runs have ended: on 20 days, a few of one tenant's so long ago that they go.
ENDED = (
    """UPDATE run_state SET status = 5, shape = 1, day = current_date - 100 - (seq % 20)::int,
                            create_time = now() - interval '100 days',
                            end_time = now() - CASE WHEN tenant = 'fill-1' AND seq % 800 = 1
                                                    THEN interval '99 days' ELSE interval '1 day' END""",
    "INSERT INTO idempotency SELECT tenant, idempotency_key, run_id, '' FROM run",
    "INSERT INTO run_outcome (run_id, status) SELECT run_id, 5 FROM run_state",
    """INSERT INTO transcript (day, run_id, first_sequence, last_sequence, events)
       SELECT day, run_id, n, n, '' FROM run_state, generate_series(1, 2) AS n""",
    """INSERT INTO checkpoint (day, run_id, position, attempt, key, record)
       SELECT day, run_id, 1, 1, 'fetch', '' FROM run_state""",
    """INSERT INTO effect (effect_id, tenant, destination_id, run_id, step, idempotency_key, ordering_key,
                           traceparent, body, status)
       SELECT run_id, tenant, 1, run_id, '', run_id::text, '', '', '', 3 FROM run_state""",
    "INSERT INTO effect_key SELECT tenant, run_id::text, run_id, '' FROM run_state",
    "DELETE FROM ready",
    "UPDATE tenant SET keep_service_s = 90 * 86400.0, queued = 0",
)

FETCHED = """
SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables
WHERE schemaname = 'holdfast' AND coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) > 0
"""

ENTRIES = "SELECT pg_stat_get_xact_tuples_returned('run_state_ended'::regclass)"
"""How many entries of that index this transaction has read."""
A_DAY_EACH = 4 * 2 * 21
"""Of each tenant and shape, its own and the unknown one, one entry a day, and the end."""


@pytest.fixture
async def large(migrated_postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A ledger full of runs that have ended and are kept, and a few that are not."""
    async with cloned_database(migrated_postgres) as url:
        async with open_ledger(url) as db:
            await fill(db, tenants=4, runs=RUNS)
            for statement in ENDED:
                await execute(db, statement)
            await execute(db, "VACUUM ANALYZE")
        async with open_ledger(url) as db:  # whose connections have read nothing that is still to be counted
            yield db


async def test_removal_reads_what_it_removes_and_nothing_else(large: Database) -> None:
    async with large.transaction() as connection:
        found = [row["run_id"] for row in await connection.fetch(FIND, 1000)]
        assert len(found) == OVER
        by_find = await read_by(connection)
        assert by_find.pop("run_state") <= 2 * OVER + 4 * 2 * 21, (
            "a day of each tenant and shape, and what is over"
        )
        assert by_find == {"tenant": 4}
        done = await connection.fetchrow(REMOVE, found)
        assert (done["removed"], done["put_off"]) == (OVER, 0)
        read = await read_by(connection)
        assert sum(read.values()) < 40 * OVER, read
    assert await remove_all(large) == 0
    for table in ("run", "run_state", "run_outcome", "idempotency", "checkpoint", "effect", "effect_key"):
        (row,) = await fetch(large, f"SELECT count(*) AS n FROM {table}")
        assert row["n"] == RUNS - OVER, table


async def test_which_days_are_kept_is_known_without_a_look_at_the_runs(large: Database) -> None:
    async with large.transaction() as connection:
        days = await connection.fetchval("SELECT kept_days(current_date - 30)")
        assert len(days) == 20
        await read_by(connection)
        assert await connection.fetchval(ENTRIES) <= A_DAY_EACH
    assert await drop(large) == []


async def read_by(connection: Any) -> dict[str, int]:
    """Return how many rows of each table this transaction has read, insisting that it scanned none."""
    rows = await connection.fetch(FETCHED)
    assert [(row["relname"], row["seq_tup_read"]) for row in rows if row["seq_tup_read"]] == []
    return {row["relname"]: row["idx_tup_fetch"] for row in rows}
