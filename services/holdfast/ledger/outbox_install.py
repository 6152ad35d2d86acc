"""The outbox in a database that is another service's: put there, brought up to date, and taken away again.

It is the ledger's schema, by the ledger's migrations, and a mark that no Invoker works here: `stage` is
served, `enqueue_run` refuses. Outside of the schemas `holdfast` and `holdfast_outbox` only roles are touched.

    nothing ──install──▶ marked, in part ──install──▶ installed ──(install: newer)──▶ installed
                                                          └──uninstall (nothing pending)──▶ nothing
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from holdfast.ledger.migrate import PREPARE, MigrationError, migrate

STAGES: Final = "holdfast_service"
"""Whoever stages is a member of this role."""
DISPATCHES: Final = "holdfast_dispatcher"
"""Whoever dispatches is a member of this role."""

_MARK: Final = "Holdfast, its outbox alone"
_LOCK: Final = 0x486F6C65  # one installation at a time per database
_ROLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$-]{0,62}\Z")

_STANDING: Final = """
SELECT n.oid IS NOT NULL AS there, obj_description(n.oid, 'pg_namespace') = $1 AS marked
FROM (VALUES (1)) one LEFT JOIN pg_namespace n ON n.nspname = 'holdfast'
"""

_LEFT: Final = """
SELECT (SELECT count(*) FROM holdfast.effect WHERE status IN (1, 2)) AS pending,
       (SELECT count(*) FROM holdfast.effect WHERE status = 4) AS dead_lettered,
       (SELECT count(*) FROM holdfast.effect) AS effects,
       (SELECT count(*) FROM holdfast.destination) AS destinations
"""

# An installation that was cut short may lack them.
_LOCK_TABLES: Final = """
DO $$
BEGIN
    IF to_regclass('holdfast.effect') IS NOT NULL THEN
        LOCK holdfast.effect_key, holdfast.effect IN ACCESS EXCLUSIVE MODE;
    END IF;
END $$
"""


@dataclass(frozen=True, slots=True)
class Left:
    """What would go with the schema."""

    pending: int
    dead_lettered: int
    effects: int
    destinations: int


class NotOursError(MigrationError):
    """The database has a ledger of its own, or no outbox."""


class StillPendingError(MigrationError):
    """Effects are on their way."""


async def install(database_url: str, *, members: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Put the schema there or bring it up to date; return the names of the migrations that were applied.

    `members` are roles, each with the one of ours that it is to belong to; they are made where they are
    missing, to log in by whatever means the server knows of. Repeatable, also after a crash, which leaves
    whole migrations. Raises `MigrationError`: `NotOursError` for a ledger.
    """
    async with _alone(database_url) as connection:
        standing = await connection.fetchrow(_STANDING, _MARK)
        if standing["there"] and not standing["marked"]:
            raise NotOursError(
                "This database is a ledger, which has its outbox already: 'holdfast db migrate'."
            )
        if not standing["there"]:
            async with connection.transaction():
                await connection.execute(PREPARE)
                await connection.execute(f"COMMENT ON SCHEMA holdfast IS '{_MARK}'")
        applied = await migrate(database_url)
        async with connection.transaction():
            await connection.execute("INSERT INTO holdfast.outbox_only DEFAULT VALUES ON CONFLICT DO NOTHING")
            for statement in await _missing(connection, members):
                await connection.execute(statement)
            await connection.execute("SELECT holdfast.grant_roles()")
        return applied


def role_statements(members: Sequence[tuple[str, str]]) -> list[str]:
    """Return what makes roles that may do no more than they need, for somebody else to run.

    Raises `MigrationError` for a name that is no plain name of a role.
    """
    return [
        statement
        for role, of in members
        for statement in (f"CREATE ROLE {_named(role)} LOGIN", _grant(role, of))
    ]


async def _missing(connection: Any, members: Sequence[tuple[str, str]]) -> list[str]:
    known = {row[0] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
    statements = []
    for role, of in members:
        if role not in known:
            statements.append(f"CREATE ROLE {_named(role)} LOGIN")
            known.add(role)
        statements.append(_grant(role, of))
    return statements


def _grant(role: str, of: str) -> str:
    return f"GRANT {of} TO {_named(role)}"


def _named(role: str) -> str:
    if not _ROLE.match(role):
        raise MigrationError(f"{role!r} is no plain name of a role.")
    return f'"{role}"'


async def left(database_url: str) -> Left:
    """Say what would go with the schema. Raises `NotOursError` where no outbox is installed."""
    async with _alone(database_url) as connection:
        return await _left(connection)


async def uninstall(database_url: str) -> Left:
    """Take the schema away, and return what went with it; roles stay, for they are the server's.

    Raises `StillPendingError` if effects wait or are being sent; nothing is staged meanwhile. Raises
    `NotOursError` where no outbox is installed, so a second time is refused. A crash takes all or nothing.
    """
    async with _alone(database_url) as connection, connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '10s'")
        await _left(connection)
        # Whoever stages or settles waits from here on, and finds nothing then.
        await connection.execute(_LOCK_TABLES)
        there = await _left(connection)
        if there.pending:
            raise StillPendingError(
                f"{there.pending} effects are on their way: let a dispatcher deliver them, or discard them."
            )
        await connection.execute("DROP SCHEMA IF EXISTS holdfast_outbox CASCADE")
        await connection.execute("DROP SCHEMA holdfast CASCADE")
        return there


async def _left(connection: Any) -> Left:
    standing = await connection.fetchrow(_STANDING, _MARK)
    if not standing["there"]:
        raise NotOursError("No outbox is installed in this database.")
    if not standing["marked"]:
        raise NotOursError("This database is a ledger, not another service's with an outbox.")
    if not await connection.fetchval("SELECT to_regclass('holdfast.effect') IS NOT NULL"):
        return Left(0, 0, 0, 0)  # an installation that was cut short
    return Left(**dict(await connection.fetchrow(_LEFT)))


@asynccontextmanager
async def _alone(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(
        database_url, server_settings={"application_name": "holdfast-outbox-install"}
    )
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        yield connection
    finally:
        await connection.close()
