"""Each service dies at each of its named points, in the middle of work, and everything comes to its end."""

import asyncio
import random
import zlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from holdfast.dev import ServiceProcess
from tests.crash.havoc import say
from tests.crash.invariant import kept
from tests.crash.load import Load
from tests.crash.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

POINTS = (
    "checkpoint.before_commit",
    "checkpoint.after_commit",
    "checkpoint.after_ack",
    "runner.before_step",
    "runner.after_step",
    "runner.after_ack",
    "runner.before_end",
    "dispatcher.before_send",
    "dispatcher.after_send",
)
CRASH_AT = "HOLDFAST_CRASH_AT"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with World.opened(tmp_path_factory.mktemp("crash"), invokers=2) as world:
        yield world


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_a_named_point_harms_nothing(world: World, point: str) -> None:
    seed = zlib.crc32(point.encode())
    at = f"{point}:{random.Random(seed).randint(1, 10)}"
    victim = world.suite.processes[point.partition(".")[0]]
    say(f"seed {seed}, {at}")
    await victim.stop()
    victim.tell({CRASH_AT: at})
    await victim.start()
    load = Load(world, seed)
    reborn = asyncio.create_task(born_again(victim))
    while not reborn.done():  # it gets there in the end, wherever the work goes
        await load.send(8)
    assert await reborn == -9, world.suite.log(victim.name)
    await load.send(4)
    await kept(world, load)


async def born_again(victim: ServiceProcess) -> int | None:
    """Wait for its death and start it as if nothing had been said; return how it died."""
    code = await victim.exited()
    victim.tell({CRASH_AT: None})
    await victim.start()
    return code
