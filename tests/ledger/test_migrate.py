"""The schema moves forward once, whoever migrates at the same time; a foreign history is noticed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from holdfast.ledger import migrate
from holdfast.ledger.migrate import Migration, MigrationError, status


async def run(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def test_an_empty_database_gets_every_migration_and_then_none(empty_database_url: str) -> None:
    before = await status(empty_database_url)
    assert all(migration.apply_time is None for migration in before)
    applied = await migrate(empty_database_url)
    assert applied == [migration.name for migration in before]
    assert await migrate(empty_database_url) == []
    assert all(migration.apply_time for migration in await status(empty_database_url))


async def test_many_processes_migrate_at_once_and_each_file_is_applied_once(empty_database_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database_url) for _ in range(6)))
    assert sorted(len(names) for names in applied)[:5] == [0] * 5
    assert sum(len(names) for names in applied) == len(await status(empty_database_url))


async def test_a_file_edited_after_it_was_applied_is_noticed(database_url: str) -> None:
    await run(database_url, "UPDATE holdfast.migration SET digest = '' WHERE name = '0001_run'")
    with pytest.raises(MigrationError, match="0001_run was edited"):
        await migrate(database_url)


async def test_a_database_of_a_newer_release_is_left_alone(database_url: str) -> None:
    await run(database_url, "INSERT INTO holdfast.migration (name, digest) VALUES ('9999_future', '')")
    with pytest.raises(MigrationError, match="9999_future"):
        await migrate(database_url)


async def test_a_phase_is_not_applied_before_one_it_needs(empty_database_url: str) -> None:
    with pytest.raises(MigrationError, match="0001_run comes first and is of phase before"):
        await migrate(empty_database_url, phase="after")
    assert await migrate(empty_database_url, phase="before")
    assert await migrate(empty_database_url, phase="after")


async def test_nothing_is_left_outside_our_schema(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    assert rows == []


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> str:
    """A migration more, which takes a lock that excludes everybody; its name."""
    module = sys.modules["holdfast.ledger.migrate"]
    known: Any = module._files
    more = Migration("9999_more", "before", "ALTER TABLE run_state ADD COLUMN more integer")
    monkeypatch.setattr(module, "_files", lambda: [*known(), more])
    return more.name


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Any]:
    """Hold a transaction open that has read the runs."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE holdfast.run_state IN ACCESS SHARE MODE")
            yield connection
    finally:
        await connection.close()


async def waits(url: str) -> bool:
    """Say whether a migration waits for a lock now."""
    connection = await asyncpg.connect(url)
    try:
        return bool(
            await connection.fetchval(
                """SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = 'holdfast-migrate' AND wait_event_type = 'Lock'
                         AND datname = current_database()"""
            )
        )
    finally:
        await connection.close()


async def test_a_migration_that_has_to_wait_lets_others_go_first(database_url: str, another: str) -> None:
    async with reading(database_url):
        migrating = asyncio.create_task(migrate(database_url, lock_timeout=0.2))
        async with asyncio.timeout(30):
            while not await waits(database_url):  # noqa: ASYNC110 -- the server waits, which tells nobody
                await asyncio.sleep(0.01)
            # Whoever comes now stands behind the migration: it must give way.
            await run(database_url, "SELECT count(*) FROM holdfast.run_state")
        assert not migrating.done()
    assert await asyncio.wait_for(migrating, 30) == [another]


async def test_a_migration_that_never_gets_its_lock_says_what_to_look_for(
    database_url: str, another: str
) -> None:
    async with reading(database_url):
        with pytest.raises(MigrationError, match="9999_more could not lock"):
            await migrate(database_url, lock_timeout=0.05, patience=0)
    assert await migrate(database_url) == [another]
