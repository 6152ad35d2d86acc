"""What each service's role must not do with tokens and the audit, tried."""

import asyncpg
import pytest

from holdfast.kit.auth.audit import Entry
from holdfast.kit.auth.token import hash_of
from holdfast.ledger import access_token, audit
from holdfast.ledger.access_token import Wanted
from holdfast.ledger.bootstrap import make_token
from tests.support.ledger import open_ledger

ROLES = ("invoker", "checkpoint", "approval", "dispatcher")
FORBIDDEN = (
    "UPDATE audit SET username = 'eve'",
    "DELETE FROM audit",
    "TRUNCATE audit",
    "UPDATE access_token SET roles = '{admin}'",
    "UPDATE access_token SET hash = decode(repeat('00', 32), 'hex')",
    "UPDATE access_token SET expire_time = NULL",
    "DELETE FROM access_token",
    "ALTER TABLE audit DISABLE TRIGGER ALL",
    "UPDATE role_grant SET role = 'holdfast_invoker'",
)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_finds_tokens_and_adds_to_the_audit_and_changes_neither(
    database_url: str, role: str
) -> None:
    _, secret = await make_token(database_url, Wanted("acme", "ada", "ada", (), ("read",)))
    async with open_ledger(database_url, role_name=f"holdfast_{role}", pool_size=2) as db:
        async with db.connection() as connection:
            found = await access_token.find(connection, hash_of(secret))
            assert found is not None
            assert found.user == "ada"
            await audit.write(connection, Entry("acme", "ada", "", "CancelRun"))
        for statement in FORBIDDEN:
            async with db.connection() as connection:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)


@pytest.mark.parametrize("role", ROLES[1:])
async def test_only_the_invoker_makes_tokens_and_reads_the_audit(database_url: str, role: str) -> None:
    async with open_ledger(database_url, role_name=f"holdfast_{role}", pool_size=2) as db:
        async with db.connection() as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await access_token.create(
                    connection, Wanted("*", "eve", "eve", (), ("admin",)), hash_of("hf_x"), by="eve"
                )
        async with db.connection() as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await audit.page(connection, "acme", before=2**62, limit=10)


async def test_not_even_the_owner_changes_the_audit_by_accident(database_url: str) -> None:
    async with open_ledger(database_url) as db:
        async with db.connection() as connection:
            await audit.write(connection, Entry("acme", "ada", "", "CancelRun"))
        for statement in FORBIDDEN[:3]:
            async with db.connection() as connection:
                with pytest.raises(asyncpg.RaiseError, match="only ever added to"):
                    await connection.execute(statement)


async def test_tokens_are_found_and_listed_without_reading_them_all(database_url: str) -> None:
    async with open_ledger(database_url) as db, db.connection() as connection:
        await connection.execute(
            """
            INSERT INTO access_token (token_id, hash, tenant, name, username, groups, roles, create_user)
            SELECT gen_random_uuid(), sha256(n::text::bytea), 't' || n % 100, 'n', 'u', '{}', '{}', ''
            FROM generate_series(1, 20000) n
            """
        )
        await connection.execute("ANALYZE access_token")
        for query, arguments in (
            (access_token.FIND, "'\\x00'::bytea"),
            (access_token.PAGE, "'t1', '00000000-0000-0000-0000-000000000000', 50"),
        ):
            types = "(bytea)" if "bytea" in arguments else "(text, uuid, int)"
            await connection.execute(f"PREPARE asked {types} AS {query}")
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE asked ({arguments})"))
            await connection.execute("DEALLOCATE asked")
            assert "Index Scan" in plan, plan
            assert "Seq Scan" not in plan, plan
