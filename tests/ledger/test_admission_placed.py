"""The quick way in writes what the thorough way would, and nothing where something speaks against it."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.ledger.admission import admit, admit_within
from holdfast.ledger.admission_placed import place
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Stored
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import Admitted, Invocation, Limits, Outcome
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    invocation,
    open_ledger,
    opened,
)

TABLES = ("run", "run_state", "idempotency", "transcript", "lease", "timer", "ready", "blocked", "tenant")


async def rows(db: Database, table: str) -> list[dict[str, Any]]:
    """Return a table's rows without what differs from one moment to the next."""
    passing = (
        "seq",
        "create_time",
        "start_time",
        "deadline_time",
        "lease_time",
        "due_time",
        "spent_time",
        "update_time",
        "run_id",
    )
    found = [dict(row) for row in await fetch(db, f"SELECT t.* FROM {table} AS t ORDER BY tenant_or_id(t)")]
    return [
        {key: "its time" if key == "note" else value for key, value in row.items() if key not in passing}
        for row in found
    ]


@pytest.fixture
async def ordered(db: Database) -> None:
    """Give each table an order that does not depend on ids that differ."""
    for table in TABLES:
        await execute(
            db,
            f"CREATE FUNCTION tenant_or_id(t {table}) RETURNS text LANGUAGE sql AS "
            "$$ SELECT coalesce(to_jsonb(t) ->> 'idempotency_key', to_jsonb(t) ->> 'tenant') $$",
        )


def full(run_id: uuid.UUID, key: str) -> Invocation:
    return invocation(
        run_id=run_id,
        idempotency_key=key,
        user="u1",
        correlation_id="c1",
        session_id="",
        priority=3,
        labels={"team": "blue"},
        limits=Limits(max_steps=7, deadline_ms=1234),
        envelope=b"what was asked",
        max_attempts=2,
    )


@pytest.mark.usefixtures("ordered")
async def test_both_ways_write_the_same_rows_and_give_the_same_answer(db: Database) -> None:
    runner = await opened(db)
    keys = ["a", "b", "c"]
    await execute(db, "INSERT INTO tenant (tenant) VALUES ('acme')")
    quick = await place(db, [full(uuid.uuid4(), key) for key in keys], runner.idle(3))
    assert quick is not None
    written = {table: await rows(db, table) for table in TABLES if table not in ("transcript", "timer")}
    notes = await fetch(db, "SELECT note::jsonb - 'time' AS note FROM transcript")
    for table in (*TABLES, "tenant_pool"):
        await execute(db, f"TRUNCATE {table} CASCADE")
    await execute(db, "INSERT INTO tenant (tenant) VALUES ('acme')")
    async with db.transaction() as connection:
        thorough = await admit_within(connection, [full(uuid.uuid4(), key) for key in keys], runner.idle(3))
    for table, expected in written.items():
        assert await rows(db, table) == expected, table
    assert notes == await fetch(db, "SELECT note::jsonb - 'time' AS note FROM transcript")
    for one, other in zip(quick, thorough, strict=True):
        assert isinstance(one, Admitted)
        assert isinstance(other, Admitted)
        assert one.lease is not None
        assert other.lease is not None
        passing = ("run_id", "seq", "create_time", "deadline_time", "lease")
        assert {k: v for k, v in asdict(one).items() if k not in passing} == {
            k: v for k, v in asdict(other).items() if k not in passing
        }
        assert (one.lease.limits, one.lease.session_id) == (other.lease.limits, other.lease.session_id)
        assert (one.deadline_time - one.create_time) == (other.deadline_time - other.create_time)
    assert await contradictions(db) == []


async def test_the_budgets_defaults_are_the_tenants(db: Database) -> None:
    runner = await opened(db)
    await admitted(db, invocation())
    await execute(db, "UPDATE tenant SET max_tokens = 77, deadline_ms = 5000")
    await runner.take()
    placed = await place(db, [invocation(limits=Limits(max_steps=3))], runner.idle())
    assert placed is not None
    (run,) = placed
    assert isinstance(run, Admitted)
    assert (run.limits.max_steps, run.limits.max_tokens, run.limits.deadline_ms) == (3, 77, 5000)
    assert (run.deadline_time - run.create_time).total_seconds() == 5


async def a_known_key(db: Database, runner: Runner) -> Invocation:
    del runner
    (run,) = await admitted(db, invocation(idempotency_key="k"))
    await execute(db, "UPDATE tenant_pool SET ready = 0")  # that it waits is not what stands in the way
    await execute(db, "DELETE FROM ready")
    assert run.created
    return invocation(idempotency_key="k")


async def a_taken_id(db: Database, runner: Runner) -> Invocation:
    known = await a_known_key(db, runner)
    (row,) = await fetch(db, "SELECT run_id FROM run")
    return invocation(run_id=row["run_id"], idempotency_key=f"another than {known.idempotency_key}")


async def others_that_wait(db: Database, runner: Runner) -> Invocation:
    del runner
    await admitted(db, invocation(intent="elsewhere"), invocation(tenant="umbrella"))
    return invocation()


async def a_session_that_is_over(db: Database, runner: Runner) -> Invocation:
    await admitted(db, invocation(tenant="acme", intent="elsewhere"))
    await runner.expire()
    return invocation()


async def a_tenant_about_to_be_full(db: Database, runner: Runner) -> Invocation:
    del runner
    await admitted(db, invocation(intent="elsewhere"))
    await execute(db, "UPDATE tenant SET max_in_flight = 1")
    return invocation()


async def a_tenant_never_seen(db: Database, runner: Runner) -> Invocation:
    del db, runner
    return invocation(tenant="new here")


async def an_ordering_key(db: Database, runner: Runner) -> Invocation:
    del db, runner
    return invocation(ordering_key="k")


OBSTACLES: list[Callable[[Database, Runner], Awaitable[Invocation]]] = [
    a_known_key,
    a_taken_id,
    others_that_wait,
    a_session_that_is_over,
    a_tenant_about_to_be_full,
    a_tenant_never_seen,
    an_ordering_key,
]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda obstacle: obstacle.__name__)
async def test_nothing_is_done_where_something_speaks_against_it(
    db: Database, obstacle: Callable[[Database, Runner], Awaitable[Invocation]]
) -> None:
    runner = await opened(db)
    asked = await obstacle(db, runner)
    before = {table: await fetch(db, f"SELECT * FROM {table}") for table in TABLES}
    assert await place(db, [asked], runner.idle()) is None
    assert {table: await fetch(db, f"SELECT * FROM {table}") for table in TABLES} == before


async def test_a_session_gets_no_more_than_its_credit(db: Database) -> None:
    runner = await opened(db)
    await admitted(db, invocation(intent="elsewhere"))
    assert await place(db, [invocation(), invocation()], runner.idle(1)) is None
    placed = await place(db, [invocation(), invocation()], runner.idle(2))
    assert placed is not None
    assert len(placed) == 2


async def test_quick_ways_in_and_out_at_once_keep_the_counters_and_the_cap(database_url: str) -> None:
    """Many sides, one tenant near its cap: whatever waits for a lock decides on what it then finds."""
    async with open_ledger(database_url, pool_size=8) as db:
        runner = await opened(db)
        await admitted(db, invocation(intent="elsewhere"))
        await execute(db, "UPDATE tenant SET max_in_flight = 5")
        chance = random.Random(7)
        ended = 0

        async def live() -> None:
            nonlocal ended
            for _ in range(25):
                (run,) = await admit(db, [invocation()], runner.idle())
                assert isinstance(run, Admitted)
                lease = run.lease or next(iter(await runner.take()), None)
                if lease is None:
                    await asyncio.sleep(chance.uniform(0, 0.004))
                    continue
                end = CommitItem(lease.run_id, lease.epoch, 1, move=Outcome(RunStatus.SUCCEEDED, b"1"))
                (result,) = await commit_group(db, [end])
                assert isinstance(result, Stored)
                ended += 1
                (row,) = await fetch(db, "SELECT in_flight FROM tenant")
                assert 0 <= row["in_flight"] <= 5

        await asyncio.gather(*(live() for _ in range(12)))
        while taken := await runner.take(5):
            for lease in taken:
                end = CommitItem(lease.run_id, lease.epoch, 1, move=Outcome(RunStatus.SUCCEEDED, b"1"))
                await commit_group(db, [end])
                ended += 1
        assert ended == 12 * 25
        assert await contradictions(db) == []
