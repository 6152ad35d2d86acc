"""Processes die at random moments under load, and every promise holds."""

import asyncio
from pathlib import Path

import pytest

from tests.crash.havoc import ROUNDS, say, wreak
from tests.crash.invariant import kept
from tests.crash.load import Load
from tests.crash.world import World

SEEDS = (101, 202)


@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("seed", SEEDS)
async def test_kills_at_random_moments_harm_nothing(tmp_path: Path, seed: int) -> None:
    say(f"seed {seed}")
    async with World.opened(tmp_path, invokers=2) as world:
        load = Load(world, seed)
        havoc = asyncio.create_task(wreak(world, seed, 8 * ROUNDS))
        while not havoc.done():
            await load.send(8)
        await havoc
        say(f"{len(load.run_ids)} runs, {sum(each.rewound for each in load.watched)} rewound")
        await kept(world, load)


@pytest.mark.timeout(120 + 60 * ROUNDS)
async def test_a_postgresql_that_dies_again_and_again_harms_nothing(tmp_path: Path) -> None:
    async with World.opened(tmp_path, invokers=2) as world:
        load = Load(world, seed=303)
        havoc = asyncio.create_task(wreak(world, 303, 4 * ROUNDS, only="postgres"))
        while not havoc.done():
            await load.send(8)
        await havoc
        await kept(world, load)
