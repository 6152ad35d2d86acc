"""Fixtures every folder of tests may use."""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import hypothesis
import pytest

from holdfast.embedded import EmbeddedPostgres
from tests.support.database import cloned_database, migrate_template, new_server

# How long an example takes says something of the machine, and nothing of what is tested.
hypothesis.settings.register_profile("holdfast", deadline=None)
hypothesis.settings.load_profile("holdfast")


@pytest.fixture(scope="session", autouse=True)
def channels_apart() -> Iterator[None]:
    """Let no channel share connections, or how long to wait after a failed one, with those before it.

    Ports come again: a channel to a server that has just begun would be told that nobody is there.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("insecure_channel", "secure_channel"):
            patch.setattr(grpc.aio, name, _apart(getattr(grpc.aio, name)))
        yield


def _apart(opening: Callable[..., grpc.aio.Channel]) -> Callable[..., grpc.aio.Channel]:
    signature = inspect.signature(opening)

    @functools.wraps(opening)
    def opened(*args: object, **named: object) -> grpc.aio.Channel:
        given = signature.bind(*args, **named).arguments
        given["options"] = [*(given.get("options") or ()), ("grpc.use_local_subchannel_pool", 1)]
        return opening(**given)

    return opened


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for all tests of this worker; nobody watches it, so a test must not kill it."""
    # A loop of its own, in the main thread: the fixture outlives the loops of the tests.
    with asyncio.Runner() as runner:
        server = new_server()
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


@pytest.fixture(scope="session")
def migrated_postgres(postgres: EmbeddedPostgres) -> EmbeddedPostgres:
    """The same, with the migrated template."""
    with asyncio.Runner() as runner:
        runner.run(migrate_template(postgres))
    return postgres


@pytest.fixture
async def database_url(migrated_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A fresh migrated database of one's own."""
    async with cloned_database(migrated_postgres) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A fresh database without any schema."""
    async with cloned_database(postgres, template=None) as url:
        yield url


@pytest.fixture
async def mortal_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL for one test to kill: it comes back, with its migrated `holdfast` database."""
    from holdfast.ledger import migrate

    async with new_server() as server:
        await server.create_database("holdfast")
        await migrate(server.url())
        yield server
