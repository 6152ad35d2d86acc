"""A real PostgreSQL for tests: one server for the session, one migrated database cloned for each test."""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.embedded import EmbeddedPostgres

TEMPLATE = "holdfast_template"

# Real durability by default: what a test proves about crashes must hold with it.
_DURABILITY = "HOLDFAST_TEST_DURABILITY"
_WITHOUT_DURABILITY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def new_server() -> EmbeddedPostgres:
    """Return an ephemeral server, not yet started; HOLDFAST_TEST_DURABILITY=off trades safety for speed."""
    durable = os.environ.get(_DURABILITY, "on") != "off"
    return EmbeddedPostgres(ephemeral=True, settings=None if durable else _WITHOUT_DURABILITY)


async def migrate_template(server: EmbeddedPostgres) -> None:
    """Make the database that each test gets a copy of."""
    from holdfast.ledger import migrate

    await server.create_database(TEMPLATE)
    await migrate(server.url(TEMPLATE))


@asynccontextmanager
async def cloned_database(server: EmbeddedPostgres, template: str | None = TEMPLATE) -> AsyncIterator[str]:
    """Give the URL of a fresh copy of `template` (empty if None), dropped with its sessions at the end."""
    name = f"test_{uuid.uuid4().hex}"
    await server.create_database(name, template)
    try:
        yield server.url(name)
    finally:
        await server.drop_database(name)
