"""The suite's database: one of our own or a given one, migrated; each service comes to it by its own role."""

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from holdfast import ledger
from holdfast.dev.error import SuiteError

ROLES: Mapping[str, str] = MappingProxyType(
    {service: f"holdfast_{service}" for service in ("invoker", "checkpoint", "approval", "dispatcher")}
)


async def prepare(database_url: str, *, may_log_in: bool) -> dict[str, str]:
    """Migrate, and return for each service the URL with which it comes: its own role's.

    Where roles `may_log_in` (our own PostgreSQL trusts its socket) each service does; in a given database,
    whose passwords are not ours to know, it acts under its role. A role that could not be made there leaves
    the given URL.
    """
    try:
        await ledger.migrate(database_url)
        connection = await asyncpg.connect(database_url)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise SuiteError(f"The database cannot be used: {error}") from error
    try:
        rows = await connection.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", list(ROLES.values())
        )
    finally:
        await connection.close()
    known = {row["rolname"] for row in rows}
    as_role = logging_in_as if may_log_in else acting_as
    return {
        service: as_role(database_url, role) if role in known else database_url
        for service, role in ROLES.items()
    }


def acting_as(database_url: str, role: str) -> str:
    """Return the URL of the same login, acting under `role`; the role itself need not be able to log in."""
    parts = urlsplit(database_url)
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != "role"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("role", role)], quote_via=quote, safe="/")))


def logging_in_as(database_url: str, role: str) -> str:
    """Return the URL of the same database for another login."""
    parts = urlsplit(database_url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
