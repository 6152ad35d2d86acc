"""No verb reads a whole table: every hot statement finds its rows by the condition of an index."""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger import (
    admission_sql,
    alert,
    cancel,
    child_end,
    claim_sql,
    commit_sql,
    demand,
    due,
    held,
    inspect,
    lease_held,
    mailbox,
    mailbox_view,
    orphan,
    platform_move,
    position,
    release,
    removal,
    retry,
    run_list,
    session,
    spawn,
    sweep,
    tenant,
    tenant_queue,
    throttle_sql,
)
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.run_list import Cursor, RunFilter
from tests.support.database import cloned_database
from tests.support.ledger import execute, fill, open_ledger

MODULES = (
    alert,
    admission_sql,
    claim_sql,
    release,
    platform_move,
    session,
    sweep,
    due,
    cancel,
    retry,
    held,
    inspect,
    lease_held,
    removal,
    position,
    mailbox,
    mailbox_view,
    child_end,
    spawn,
    orphan,
    tenant,
    tenant_queue,
    demand,
    throttle_sql,
)
VERBS = ("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")
PARTS = {"_RUN", "_RING"}  # begin other statements, are none
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name.lstrip('_')}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, str) and value.strip().startswith(VERBS) and name not in PARTS
} | {
    "commit.progress": commit_sql.progress(),
    "commit.move": commit_sql.move(),
    "commit.finish": commit_sql.finish(),
}

# Small by nature: one row per intent and version, one per runner; the runs being cancelled, or with mail;
# the pools that are held back; the tenants that keep runs for a time.
SMALL = {"served_intent", "runner_session"}
SMALL_INDEXES = {
    "run_state_cancel_asked",
    "run_state_mail",
    "run_state_orphan",
    "tenant_pool_held",
    "tenant_pool_held_by",
    "tenant_kept",
}

# `fill` queues runs; these give the other tables rows enough that reading all of them would cost.
EVERYTHING_ELSE = (
    "INSERT INTO idempotency SELECT tenant, idempotency_key, run_id, '' FROM run",
    "INSERT INTO timer SELECT run_id, 1, deadline_time FROM run_state",
    "INSERT INTO timer SELECT run_id, 2, deadline_time FROM run_state WHERE seq % 10 = 1",
    "INSERT INTO run_outcome (run_id, status) SELECT run_id, 5 FROM run_state WHERE seq % 2 = 0",
    """INSERT INTO lease (run_id, session_id, epoch, tenant)
       SELECT run_id, md5((seq % 50)::text)::uuid, 1, tenant FROM run_state WHERE seq % 4 = 3""",
    """INSERT INTO runner_session (session_id, invoker_id, address, intents, expire_time)
       SELECT DISTINCT session_id, session_id, '', '[]'::jsonb, now() FROM lease""",
    """INSERT INTO throttled SELECT tenant, (seq % 5)::text, pool, rank, seq, run_id
       FROM run_state WHERE seq % 4 = 2""",
    "INSERT INTO throttled_user SELECT DISTINCT tenant, user_id, now() + interval '1 h' FROM throttled",
    "INSERT INTO lane SELECT tenant, seq::text, run_id FROM run_state WHERE seq % 4 = 1",
    """INSERT INTO blocked SELECT tenant, (seq / 4 * 4 + 1)::text, seq, run_id
       FROM run_state WHERE seq % 4 = 2""",
    """INSERT INTO transcript (day, run_id, first_sequence, last_sequence, events)
       SELECT day, run_id, n, n, '' FROM run_state, generate_series(1, 2) AS n""",
    """INSERT INTO checkpoint (day, run_id, position, attempt, key, record)
       SELECT day, run_id, 1, 1, 'fetch', '' FROM run_state""",
    """INSERT INTO mailbox (run_id, signal_id, sequence, key, urgent, fingerprint, payload, size, consumed)
       SELECT run_id, n::text, n, 'input', false, '', '1', 9, n % 2 = 0
       FROM run_state, generate_series(1, 4) AS n WHERE seq % 4 = 3""",
    """INSERT INTO destination (tenant, name, url, secret_name, headers, max_concurrent, max_per_second,
                                timeout_ms, max_attempts, initial_backoff_ms, max_backoff_ms, delivery_mode,
                                breaker_failures, breaker_reset_ms)
       SELECT tenant, n::text, '', '', '{}', 1, 1, 1, 1, 1, 1, 1, 1, 1
       FROM tenant, generate_series(1, 10) AS n""",
    "INSERT INTO destination_state (destination_id) SELECT destination_id FROM destination",
    """INSERT INTO child
       SELECT run_id, tenant, md5((seq / 20)::text)::uuid, md5((seq / 20)::text)::uuid, 1, 1, 1, 1
       FROM run_state WHERE seq % 4 = 3""",
    """UPDATE run_state s SET status = 2, mail_last = 4, mail_waiting = 2, mail_bytes = 18,
                              parent_run_id = md5((seq / 20)::text)::uuid
       WHERE seq % 4 = 3""",
)


@pytest.fixture
async def large(migrated_postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A ledger with enough in it that a plan that reads everything would cost."""
    async with cloned_database(migrated_postgres) as url, open_ledger(url) as db:
        await fill(db, tenants=2_000, runs=40_000)
        for statement in EVERYTHING_ELSE:
            await execute(db, statement)
        await execute(db, "VACUUM ANALYZE")
        yield db


async def test_every_hot_statement_finds_its_rows_by_an_index(large: Database) -> None:
    guilty = {}
    for name, statement in STATEMENTS.items():
        found = list(whole_table_reads(await plan_of(large, statement)))
        if found:
            guilty[name] = found
    assert not guilty, "\n".join(f"{name}: {reads}" for name, reads in guilty.items())


LISTS = {
    "all": RunFilter(),
    "a status": RunFilter(statuses=(RunStatus.DEAD_LETTERED,)),
    "statuses": RunFilter(statuses=(RunStatus.FAILED, RunStatus.QUEUED)),
    "times": RunFilter(create_time_from=Cursor.parse("2026-01-01T00:00:00+00:00/1").create_time),
    "a conversation": RunFilter(session_id="s"),
    "a correlation": RunFilter(correlation_id="c", intent="count"),
    "labels": RunFilter(labels={"team": "blue"}),
    "a parent": RunFilter(parent_run_id=uuid.UUID(int=1)),
}


async def test_every_list_is_read_along_an_index(large: Database) -> None:
    guilty = {}
    after = Cursor.parse("2026-01-01T00:00:00+00:00/900")
    for name, which in LISTS.items():
        for cursor in (None, after):
            query = run_list.statement("fill-1", which, 50, cursor)
            compiled = query.compile(dialect=large.engine.dialect)
            plan = await plan_of(large, str(compiled))
            found = list(whole_table_reads(plan))
            if found:
                guilty[name] = found
            assert not list(sorts(plan, within=2_000)), (name, plan)
    assert not guilty, "\n".join(f"{name}: {reads}" for name, reads in guilty.items())


async def plan_of(db: Database, statement: str) -> dict[str, Any]:
    """Return the plan that a prepared statement keeps, whatever its arguments."""
    arguments = {int(number) for number in re.findall(r"\$(\d+)", statement)}
    nulls = ", ".join("NULL" for _ in range(max(arguments, default=0)))
    async with db.transaction() as connection:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE asked AS {statement}")
        text = await connection.fetchval(
            f"EXPLAIN (FORMAT JSON) EXECUTE asked{f'({nulls})' if nulls else ''}"
        )
        await connection.execute("DEALLOCATE asked")
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def whole_table_reads(plan: dict[str, Any]) -> Iterator[str]:
    """Name the reads of tables that no condition of an index bounds."""
    for node in nodes(plan):
        table = node.get("Relation Name")
        if table is None or table in SMALL or node["Node Type"] in {"ModifyTable", "CTE Scan"}:
            continue
        if any(n.get("Index Name") in SMALL_INDEXES for n in (node, *node.get("Plans", ()))):
            continue
        bounded = "TID Cond" in node or any("Index Cond" in n for n in (node, *node.get("Plans", ())))
        if not bounded:
            yield f"{node['Node Type']} of {table}"


def sorts(plan: dict[str, Any], *, within: int) -> Iterator[dict[str, Any]]:
    """Find sorts of more rows than a page may hold."""
    return (n for n in nodes(plan) if n["Node Type"] == "Sort" and n["Plan Rows"] > within)
