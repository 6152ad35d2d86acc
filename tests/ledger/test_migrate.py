"""The schema moves forward once, whoever migrates at the same time; a foreign history is noticed."""

import asyncio

import asyncpg
import pytest

from holdfast.ledger import migrate
from holdfast.ledger.migrate import MigrationError, status


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
