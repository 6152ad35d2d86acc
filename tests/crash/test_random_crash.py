"""Processes die at random moments under load, and every promise holds."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.crash.havoc import ROUNDS, wreak
from tests.crash.invariant import kept
from tests.crash.load import Load
from tests.crash.world import World

SEEDS = [int(seed) for seed in (101, 202)]


@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("seed", SEEDS)
async def test_kills_at_random_moments_harm_nothing(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    async with World.opened(tmp_path, invokers=2) as world:
        load = Load(world, seed)
        havoc = asyncio.create_task(wreak(world, seed, 8 * ROUNDS))
        while not havoc.done():
            await load.send(8)
        await havoc
        print(f"{len(load.run_ids)} runs, {sum(each.rewound for each in load.watched)} rewound")
        await kept(world, load)
