"""The suite's database: one of our own or a given one, migrated; each service comes to it by its own role."""

import asyncio
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from holdfast import ledger
from holdfast.dev.error import SuiteError

ROLES: Mapping[str, str] = MappingProxyType(
    {service: f"holdfast_{service}" for service in ("invoker", "checkpoint", "approval", "dispatcher")}
)


SESSION_PATIENCE_S: Final = 30.0
_SESSIONS: Final = "SELECT address FROM holdfast.runner_session WHERE address = ANY($1)"


async def prepare(database_url: str) -> dict[str, str]:
    """Migrate, and return for each service the URL with which it comes.

    With a role made for the service it is that role's; until migrations make one, the given URL.
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
    return {
        service: acting_as(database_url, role) if role in known else database_url
        for service, role in ROLES.items()
    }


async def until_in_session(database_url: str, addresses: Collection[str]) -> None:
    """Wait until an Invoker knows the runners at these addresses: before that no run would reach them.

    A runner says that it is ready when it listens; its session with an Invoker comes a moment later.
    """
    wanted = set(addresses)
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(SESSION_PATIENCE_S):
            while wanted:
                rows = await connection.fetch(_SESSIONS, list(wanted))
                wanted -= {row["address"] for row in rows}
                if wanted:
                    await asyncio.sleep(0.02)
    except TimeoutError:
        raise SuiteError(f"No Invoker knows the runner at {', '.join(sorted(wanted))}.") from None
    finally:
        await connection.close()


def acting_as(database_url: str, role: str) -> str:
    """Return the URL of the same login, acting under `role`; the role itself need not be able to log in."""
    parts = urlsplit(database_url)
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != "role"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("role", role)], quote_via=quote, safe="/")))
