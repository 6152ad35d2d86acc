"""Kills one process after the other at moments that a seed decides, and starts each again."""

import asyncio
import os
import random
import sys
from typing import Final

from tests.crash.world import World

ROUNDS: Final = int(os.environ.get("HOLDFAST_CRASH_ROUNDS", "1"))
"""How much longer than usual the random tests go on: for soaks."""


def say(what: str) -> None:
    """Tell whoever looks into a failure; pytest keeps it until then."""
    sys.stdout.write(what + "\n")


def victims(world: World) -> list[str]:
    """Name all that can be killed, what matters most more than once."""
    services = [name for name in world.suite.processes if name != "approval"]
    return [*services, "checkpoint", "postgres"]


async def wreak(world: World, seed: int, kills: int, only: str = "") -> None:
    """Kill so many, one after the other, each in the middle of what it does; `only` names the one victim."""
    chance = random.Random(seed)
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.0, 0.5))  # the moment is the point
        name = only or chance.choice(victims(world))
        say(f"kill {name}")
        if name == "postgres":
            assert world.suite.postgres is not None
            await world.suite.postgres.kill()
            await world.suite.postgres.ready()
        else:
            process = world.suite.processes[name]
            await process.kill()
            await process.start()
