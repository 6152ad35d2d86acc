"""A watched table's changes become events in the transaction that makes them, whoever writes."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from holdfast.kit.db import Database
from tests.support.ledger import execute, fetch

TABLE = 'CREATE TABLE shop."Order" (id int PRIMARY KEY, total numeric, note text, secret text)'


@pytest.fixture
async def people(db: Database, database_url: str) -> AsyncIterator[tuple[Any, Any]]:
    """A service that owns a table, and may do nothing in Holdfast but stage; another role writes."""
    suffix = uuid.uuid4().hex
    names = [f"shop_owner_{suffix}", f"shop_writer_{suffix}"]
    await execute(db, f"CREATE ROLE {names[0]}; CREATE ROLE {names[1]}; GRANT holdfast_service TO {names[0]}")
    await execute(db, f"CREATE SCHEMA shop AUTHORIZATION {names[0]}")
    owner = await asyncpg.connect(database_url, server_settings={"role": names[0]})
    await owner.execute(TABLE)
    await owner.execute(f'GRANT USAGE ON SCHEMA shop TO {names[1]}; GRANT ALL ON shop."Order" TO {names[1]}')
    writer = await asyncpg.connect(database_url, server_settings={"role": names[1]})
    yield owner, writer
    for one in (owner, writer):
        await one.close()
    await execute(db, f"DROP SCHEMA shop CASCADE; DROP ROLE {names[1]}; DROP ROLE {names[0]}")


@pytest.fixture
def owner(people: tuple[Any, Any]) -> Any:
    return people[0]


@pytest.fixture
def writer(people: tuple[Any, Any]) -> Any:
    return people[1]


async def watch(owner: Any, more: str = "") -> None:
    await owner.execute(f"SELECT holdfast.watch_table('shop.\"Order\"', 'check_order'{more})")


async def events(db: Database) -> list[dict[str, Any]]:
    rows = await fetch(db, "SELECT payload FROM run_inbox ORDER BY seq")
    return [json.loads(row["payload"]) for row in rows]


async def test_each_change_is_an_event_of_its_row_in_order(db: Database, owner: Any, writer: Any) -> None:
    await watch(owner)
    await writer.execute("""
        INSERT INTO shop."Order" VALUES (1, 9.50, 'a'), (2, 1, 'b');
        UPDATE shop."Order" SET total = 10 WHERE id = 1;
        UPDATE shop."Order" SET note = note;
        DELETE FROM shop."Order" WHERE id = 2
    """)
    found = await events(db)
    assert [(one["operation"], one["key"]["id"]) for one in found] == [
        ("INSERT", 1),
        ("INSERT", 2),
        ("UPDATE", 1),
        ("DELETE", 2),
    ]
    assert (found[2]["old"]["total"], found[2]["new"]["total"]) == (9.5, 10)
    assert (found[0]["old"], found[3]["new"], found[3]["table"]) == (None, None, 'shop."Order"')
    rows = await fetch(db, "SELECT DISTINCT ordering_key, intent, tenant FROM run_inbox ORDER BY 1")
    assert [tuple(row) for row in rows] == [
        ('shop."Order"/1', "check_order", "default"),
        ('shop."Order"/2', "check_order", "default"),
    ]


async def test_what_is_rolled_back_is_no_event(db: Database, owner: Any, writer: Any) -> None:
    await watch(owner)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute('INSERT INTO shop."Order" VALUES (1)')
    await transaction.rollback()
    assert await events(db) == []


async def test_only_the_declared_columns_and_operations_are_told_of(
    db: Database, owner: Any, writer: Any
) -> None:
    await watch(
        owner,
        ", columns => '{total}', operations => '{UPDATE}', key_columns => '{note,id}', tenant => 'acme'",
    )
    await writer.execute("""
        INSERT INTO shop."Order" VALUES (1, 1, 'a', 'hidden');
        UPDATE shop."Order" SET secret = 'other';
        UPDATE shop."Order" SET total = 2
    """)
    (event,) = await events(db)
    assert (event["old"], event["new"], event["key"]) == ({"total": 1}, {"total": 2}, {"id": 1, "note": "a"})
    (row,) = await fetch(db, "SELECT tenant, ordering_key FROM run_inbox")
    assert tuple(row) == ("acme", 'shop."Order"/a,1')


async def test_a_row_too_large_for_an_event_is_written_and_told_of_by_its_key(
    db: Database, owner: Any, writer: Any
) -> None:
    await watch(owner, ", key_columns => '{note}'")
    await writer.execute("INSERT INTO shop.\"Order\" VALUES (1, 1, repeat('k', 300), repeat('x', 1200000))")
    (event,) = await events(db)
    assert event["truncated"] is True
    assert "new" not in event
    (row,) = await fetch(db, "SELECT ordering_key FROM run_inbox")
    assert row["ordering_key"].startswith("change/")


async def test_a_key_that_is_null_fails_no_write(db: Database, owner: Any, writer: Any) -> None:
    await watch(owner, ", key_columns => '{note}'")
    await writer.execute('INSERT INTO shop."Order" VALUES (1)')
    (event,) = await events(db)
    assert event["key"] == {"note": None}


async def test_a_change_is_in_the_trace_that_its_transaction_names_and_one_of_no_use_fails_no_write(
    db: Database, owner: Any, writer: Any
) -> None:
    await watch(owner)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for number, said in enumerate((None, trace, None, "x" * 300, trace.upper())):
        async with writer.transaction():
            if said is not None:
                await writer.execute("SELECT set_config('holdfast.traceparent', $1, true)", said)
            await writer.execute('INSERT INTO shop."Order" VALUES ($1)', number)
    rows = await fetch(db, "SELECT traceparent FROM run_inbox ORDER BY seq")
    assert [row["traceparent"] for row in rows] == ["", trace, "", "", ""]


async def test_watching_again_replaces_and_unwatching_ends(db: Database, owner: Any, writer: Any) -> None:
    await watch(owner)
    await watch(owner, ", operations => '{DELETE}'")
    await writer.execute('INSERT INTO shop."Order" VALUES (1)')
    assert await events(db) == []
    for _ in range(2):
        await owner.execute("SELECT holdfast.unwatch_table('shop.\"Order\"', 'check_order')")
    await writer.execute('DELETE FROM shop."Order"')
    assert await events(db) == []


@pytest.mark.parametrize(
    ("arguments", "column"),
    [
        ("'a b'", "intent"),
        ("'x', key_columns => '{nothing}'", "key_columns"),
        ("'x', columns => '{nothing}'", "columns"),
        ("'x', columns => '{}'", "columns"),
        ("'x', operations => '{TRUNCATE}'", "operations"),
        ("'x', operations => '{}'", "operations"),
        ("'x', tenant => ''", "tenant"),
    ],
)
async def test_what_cannot_be_watched_is_refused_naming_the_argument(
    owner: Any, arguments: str, column: str
) -> None:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await owner.execute(f"SELECT holdfast.watch_table('shop.\"Order\"', {arguments})")
    assert (refused.value.sqlstate, refused.value.column_name) == ("HF003", column)


async def test_where_only_the_outbox_is_installed_no_table_is_watched(db: Database, owner: Any) -> None:
    await execute(db, "INSERT INTO outbox_only DEFAULT VALUES")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await watch(owner)
    assert refused.value.sqlstate == "HF004"


async def test_only_services_watch_and_only_their_own_tables(owner: Any, writer: Any) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await writer.execute("SELECT holdfast.watch_table('shop.\"Order\"', 'x')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute("SELECT holdfast.watch_table('holdfast.run', 'x')")
