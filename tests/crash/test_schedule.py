"""Invokers with wrong clocks die at random: every time fires once, and what was missed is made up for."""

import asyncio
import itertools
import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.client import FireOrigin, Invocation, Schedule, Timing
from tests.crash.test_clock import SHIFTED
from tests.crash.world import World

SCHEDULES = 10


async def started(world: World) -> dict[str, list[str]]:
    """Return the times of each schedule for which runs were started, as often as there are runs."""
    found: dict[str, list[str]] = {}
    async with world.ledger() as db, db.connection() as connection:
        rows = await connection.fetch(
            "SELECT idempotency_key FROM run WHERE idempotency_key LIKE 'schedule/%' ORDER BY idempotency_key"
        )
    for row in rows:
        _, schedule, time = row["idempotency_key"].split("/")
        found.setdefault(schedule, []).append(time)
    return found


def quick(name: str, every: float) -> Schedule:
    run = Invocation(intent="crash.work", payload={"steps": 1}, labels={"by": name})
    return Schedule(name, Timing(every=every), run, catch_up=600)


@pytest.mark.timeout(180)
async def test_invokers_that_die_at_random_fire_each_time_once(tmp_path: Path) -> None:
    folder = tmp_path / "shifted"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHIFTED)
    wrong = {"PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())]), "CLOCK_IS_AHEAD": "600"}
    async with World.opened(tmp_path, invokers=3, environments={"invoker": wrong}) as world:
        for n in range(SCHEDULES):
            await world.client.schedules.create(quick(f"s{n}", 3))
        chance = random.Random(7)
        invokers = [name for name in world.suite.processes if name.startswith("invoker")]
        assert len(invokers) == 3
        for _ in range(9):
            await asyncio.sleep(chance.uniform(0.2, 1.2))  # the moment is the point
            process = world.suite.processes[chance.choice(invokers)]
            await process.kill()
            await process.start()

        async def enough() -> bool:
            found = await started(world)
            return len(found) == SCHEDULES and min(map(len, found.values())) >= 4

        await world.until(enough, "every schedule has fired four times")
        for n in range(SCHEDULES):
            await world.client.schedules.pause(f"s{n}")
        for times in (await started(world)).values():
            assert len(times) == len(set(times))
        for n in range(SCHEDULES):
            fires = sorted(
                one.scheduled_time
                for one in (await world.client.schedules.get(f"s{n}")).recent_fires
                if one.scheduled_time
            )
            assert len(fires) == len(set(fires)), "each time once"
            gaps = {later - earlier for earlier, later in itertools.pairwise(fires)}
            assert gaps <= {timedelta(seconds=3)}, "none left out"


@pytest.mark.timeout(180)
async def test_a_suite_without_invokers_for_several_times_makes_up_for_them(tmp_path: Path) -> None:
    async with World.opened(tmp_path, invokers=2) as world:
        created = await world.client.schedules.create(quick("late", 2))
        assert created.create_time is not None
        invokers = [world.suite.processes[name] for name in world.suite.processes if "invoker" in name]
        for process in invokers:
            await process.kill()
        await asyncio.sleep(13)  # times pass by, more of them than are still punctual
        for process in invokers:
            await process.start()

        async def made_up() -> bool:
            fires = (await world.client.schedules.get("late")).recent_fires
            told = [one for one in fires if one.origin is FireOrigin.CATCH_UP and one.run_id]
            return len(told) >= 3

        await world.until(made_up, "what was missed has started")
        (times,) = (await started(world)).values()
        assert len(times) == len(set(times))
