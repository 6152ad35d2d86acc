"""Services stage effects and runs in their own transactions, by functions that any language can call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from holdfast.kit.db import Database
from holdfast.ledger import inbox
from tests.kit.until import until
from tests.support.ledger import fetch
from tests.support.outbox import check_places, make_destination, stage, staged

STAGE = "SELECT holdfast_outbox.stage('tickets', $1::jsonb, $2, $3)"
ENQUEUE = "SELECT holdfast.enqueue_run('count', $1::jsonb, $2, $3)"


@pytest.fixture
async def services(database_url: str) -> AsyncIterator[list[Any]]:
    """Two connections of a service that may do nothing but stage."""
    connections = [
        await asyncpg.connect(database_url, server_settings={"role": "holdfast_service"}) for _ in range(2)
    ]
    yield connections
    for connection in connections:
        await connection.close()


async def test_an_effect_exists_exactly_if_the_services_transaction_commits(
    db: Database, services: list[Any]
) -> None:
    await make_destination(db, "tickets")
    transaction = services[0].transaction()
    await transaction.start()
    await services[0].fetchval(STAGE, '{"n": 1}', "lost", "")
    await transaction.rollback()
    kept = await services[0].fetchval(STAGE, '{"n": 2}', "kept", "")
    rows = await fetch(db, "SELECT effect_id, body, tenant FROM effect")
    assert [tuple(row) for row in rows] == [(kept, b'{"n": 2}', "default")]
    await check_places(db)


async def test_the_same_key_is_the_same_effect_and_never_another(db: Database, services: list[Any]) -> None:
    await make_destination(db, "tickets")
    first = await services[0].fetchval(STAGE, '{"n": 1}', "k", "o")
    assert await services[1].fetchval(STAGE, '{"n":1}', "k", "o") == first
    with pytest.raises(asyncpg.PostgresError) as reused:
        await services[0].fetchval(STAGE, '{"n": 2}', "k", "o")
    assert reused.value.sqlstate == "HF002"
    assert len(await fetch(db, "SELECT FROM effect")) == 1


async def test_a_run_and_a_service_that_send_the_same_make_one_effect(
    db: Database, services: list[Any]
) -> None:
    await make_destination(db, "tickets")
    first = await services[0].fetchval(STAGE, '{"n": 1}', "k", "o")
    await stage(db, staged("tickets", key="k", body=b'{"n": 1}', ordering_key="o"))
    assert [row["effect_id"] for row in await fetch(db, "SELECT effect_id FROM effect")] == [first]


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        ("'nowhere', '{}', 'k'", "HF001"),
        ("'tickets', '{}', ''", "HF003"),
        ("'tickets', NULL, 'k'", "HF003"),
        ("'tickets', '{}', NULL", "HF003"),
        ("'tickets', '{}', 'k', repeat('x', 256)", "HF003"),
        ("'tickets', to_jsonb(repeat('x', 1048577)), 'k'", "HF003"),
    ],
)
async def test_what_cannot_be_an_effect_is_refused_with_its_own_sqlstate(
    db: Database, services: list[Any], arguments: str, sqlstate: str
) -> None:
    await make_destination(db, "tickets")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await services[0].fetchval(f"SELECT holdfast_outbox.stage({arguments})")
    assert refused.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("arguments", "column"),
    [
        ("'', '{}', 'k'", "intent"),
        ("'count', '[]', 'k'", "payload"),
        ("'count', '{}', ''", "idempotency_key"),
        ("'count', '{}', 'k', tenant => ''", "tenant"),
        ("'count', '{}', 'k', priority => 10", "priority"),
        ("'count', '{}', 'k', labels => '[]'", "labels"),
        ("'count', '{}', 'k', traceparent => repeat('x', 256)", "traceparent"),
    ],
)
async def test_what_cannot_be_a_run_is_refused_naming_the_argument(
    services: list[Any], arguments: str, column: str
) -> None:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await services[0].fetchval(f"SELECT holdfast.enqueue_run({arguments})")
    assert (refused.value.sqlstate, refused.value.column_name) == ("HF003", column)


async def test_a_service_can_read_nothing_of_what_it_staged(services: list[Any]) -> None:
    for table in ("effect", "run_inbox", "destination", "run"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await services[0].fetch(f"SELECT FROM holdfast.{table}")


@pytest.mark.parametrize(("statement", "table"), [(STAGE, "effect"), (ENQUEUE, "run_inbox")])
async def test_two_writers_of_one_order_are_numbered_as_they_commit(
    db: Database, services: list[Any], statement: str, table: str
) -> None:
    await make_destination(db, "tickets")
    early, late = services
    slow = early.transaction()
    await slow.start()
    await early.fetchval(statement, '{"n": 1}', "first", "lane")
    waiting = asyncio.create_task(late.fetchval(statement, '{"n": 2}', "second", "lane"))
    await until(lambda: early.is_in_transaction() and not waiting.done())

    async def blocked() -> bool:
        rows = await fetch(db, "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(rows)

    async with asyncio.timeout(10):
        while not await blocked():  # noqa: ASYNC110 - of a database: nothing to wait on
            await asyncio.sleep(0.01)
    await early.fetchval(statement, '{"n": 3}', "third", "lane")
    await slow.commit()
    await waiting
    rows = await fetch(db, f"SELECT idempotency_key FROM {table} ORDER BY seq")
    assert [row["idempotency_key"] for row in rows] == ["first", "third", "second"]


async def test_writers_of_other_orders_do_not_wait(services: list[Any]) -> None:
    async with services[0].transaction():
        await services[0].fetchval(ENQUEUE, "{}", "1", "a")
        async with asyncio.timeout(5):
            await services[1].fetchval(ENQUEUE, "{}", "2", "b")


async def test_only_one_process_has_the_inbox_in_hand(db: Database, services: list[Any]) -> None:
    await services[0].fetchval(ENQUEUE, "{}", "1", "")
    async with inbox.turn(db, after="", passed_over=()) as first:
        assert first is not None
        assert [event.idempotency_key for event in first.events] == ["1"]
        async with inbox.turn(db, after="", passed_over=()) as second:
            assert second is None


async def test_what_is_taken_is_bounded_by_tenant_and_in_all(db: Database, services: list[Any]) -> None:
    await services[0].execute(
        "SELECT holdfast.enqueue_run('count', '{}', t || '/' || n, tenant => t)"
        " FROM unnest(ARRAY['a', 'b', 'c', 'd', 'e', 'f']) t, generate_series(1, 70) n"
    )
    async with inbox.turn(db, after="", passed_over=["b"]) as held:
        assert held is not None
        counts = {tenant: [e.tenant for e in held.events].count(tenant) for tenant in "abcdef"}
    assert counts == {"a": 64, "b": 0, "c": 64, "d": 64, "e": 64, "f": 0}


async def test_taking_costs_the_same_behind_a_backlog(db: Database, services: list[Any]) -> None:
    await services[0].execute(
        "SELECT holdfast.enqueue_run('count', '{}', n::text, tenant => 'noisy',"
        " ordering_key => (n % 9)::text) FROM generate_series(1, 5000) n"
    )
    async with db.transaction() as connection:
        await connection.execute("ANALYZE run_inbox")
        plan = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {inbox.TAKE}", "", ["noisy"], 256, 64, 1 << 22
        )
    assert "Seq Scan" not in plan


async def test_a_lane_is_gone_with_its_last_event(db: Database, services: list[Any]) -> None:
    for number in range(3):
        await services[0].fetchval(ENQUEUE, "{}", str(number), "lane")
    async with inbox.turn(db, after="", passed_over=()) as held:
        assert held is not None
        await inbox.settle(held, held.events[:2], {})
    assert len(await fetch(db, "SELECT FROM run_inbox_lane")) == 1
    async with inbox.turn(db, after="", passed_over=()) as held:
        assert held is not None
        await inbox.settle(held, held.events, {})
    assert await fetch(db, "SELECT FROM run_inbox_lane") == []
