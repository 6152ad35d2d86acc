"""While PostgreSQL is away callers are told so; when it is back everything goes on, and nothing is lost."""

import asyncio
from pathlib import Path

import pytest

from holdfast.client import Client, Retries
from holdfast.client.errors import Unavailable
from tests.crash.invariant import kept
from tests.crash.load import Load
from tests.crash.world import World
from tests.support.cord import Cord

ONCE = Retries(attempts=1)


async def test_a_ledger_out_of_reach_is_unavailable_and_all_heals_when_it_is_back(
    tmp_path: Path, database_url: str
) -> None:
    async with (
        Cord(database_url) as cord,
        World.opened(tmp_path, database_url=cord.url) as world,
        Client(world.suite.invoker_addresses[0], retries=ONCE, timeout=20) as impatient,
    ):
        load = Load(world, seed=9)
        await load.send(4)
        working = asyncio.create_task(load.send(24))
        await world.until(lambda: len(load.acknowledged) >= 12, "the load is under way")
        await cord.cut()
        with pytest.raises(Unavailable) as refused:
            await impatient.invoke("crash.work", {})
        assert refused.value.reason == "LEDGER_UNAVAILABLE"
        with pytest.raises(Unavailable):
            await impatient.get_run(next(iter(load.run_ids)))
        await cord.mend()
        await working
        await load.send(4)
        assert all(process.starts == 1 for process in world.suite.processes.values())
        await kept(world, load)


async def test_connections_that_fell_silent_are_given_up_and_all_heals(
    tmp_path: Path, database_url: str
) -> None:
    async with Cord(database_url) as cord, World.opened(tmp_path, database_url=cord.url) as world:
        load = Load(world, seed=10)
        await load.send(4)
        cord.hang()
        await load.send(8)
        assert all(process.starts == 1 for process in world.suite.processes.values())
        await kept(world, load)
