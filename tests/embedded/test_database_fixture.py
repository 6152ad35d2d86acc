"""Each test has a migrated database of its own."""

import asyncpg
import pytest

from holdfast.embedded import EmbeddedPostgres


@pytest.mark.parametrize("time", ["first", "second"])
async def test_a_test_finds_the_schema_and_nothing_of_the_test_before(database_url: str, time: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert (
            await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'holdfast%'") > 0
        )
        await connection.execute(f"CREATE TABLE public.only_of_the_{time}_test ()")
        made = await connection.fetch("SELECT relname FROM pg_class WHERE relname LIKE 'only_of_the_%'")
        assert [row["relname"] for row in made] == [f"only_of_the_{time}_test"]
    finally:
        await connection.close()


async def test_an_empty_database_has_no_schema(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert (
            await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'holdfast%'") == 0
        )
    finally:
        await connection.close()


async def test_a_mortal_server_comes_back_migrated(mortal_postgres: EmbeddedPostgres) -> None:
    await mortal_postgres.kill()
    await mortal_postgres.ready()
    connection = await asyncpg.connect(mortal_postgres.url())
    try:
        assert (
            await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'holdfast%'") > 0
        )
    finally:
        await connection.close()
