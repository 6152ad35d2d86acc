"""An Invoker, a Checkpoint service, and runners to come."""

from collections.abc import AsyncIterator

import pytest

from tests.invoker.runner import Runner, runner
from tests.invoker.stand import Invoker, checkpoint, invoker
from tests.kit.until import until


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Invoker]:
    """An Invoker on a database of its own."""
    async with invoker(database_url) as one:
        yield one


@pytest.fixture
async def commits(database_url: str) -> AsyncIterator[str]:
    """The address of a Checkpoint service on the same database."""
    async with checkpoint(database_url) as address:
        yield address


@pytest.fixture
async def worker(door: Invoker, commits: str) -> AsyncIterator[Runner]:
    """A runner of `count` with room for ten runs."""
    async with runner(door.address, commits, slots=10) as one:
        await until(lambda: door.parts.board.sessions()[0].credit == 10)
        yield one
