"""Invokers die while they make runs of staged events: each event makes exactly one run, in its order."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.crash.world import World

STAGE = """
SELECT holdfast.enqueue_run(intent => CASE WHEN n % 10 = 0 THEN 'nobody.serves' ELSE 'crash.work' END,
    payload => '{"steps": 1}', idempotency_key => $1 || n, ordering_key => $1 || n % 3)
FROM generate_series(1, $2::int) n
"""


async def stage(world: World, name: str, count: int) -> None:
    async with world.ledger() as db, db.connection() as connection:
        await connection.execute(STAGE, name, count)


async def made(world: World, name: str) -> list[int]:
    """Return the events that are runs, in the order of the runs."""
    async with world.ledger() as db, db.connection() as connection:
        rows = await connection.fetch("SELECT idempotency_key FROM run ORDER BY seq")
    keys = [row["idempotency_key"] for row in rows]
    return [int(key.removeprefix(name)) for key in keys if key.startswith(name)]


async def settled(world: World) -> bool:
    async with world.ledger() as db, db.connection() as connection:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM run_inbox)")


async def holds(world: World, name: str, count: int) -> None:
    """Check that every event is one run, or among the refused, and that no order is broken."""
    await world.until(lambda: settled(world), "the inbox is empty")
    numbers = await made(world, name)
    assert sorted(numbers) == [n for n in range(1, count + 1) if n % 10]
    for order in range(3):
        mine = [n for n in numbers if n % 3 == order]
        assert mine == sorted(mine)
    refused = [event.idempotency_key async for event in world.client.refused_events.list()]
    mine_refused = sorted(int(key.removeprefix(name)) for key in refused if key.startswith(name))
    assert mine_refused == [n for n in range(1, count + 1) if n % 10 == 0]


@pytest.mark.timeout(180)
async def test_an_invoker_killed_between_the_runs_and_the_inbox_makes_no_second_run(tmp_path: Path) -> None:
    dying = {"invoker": {"HOLDFAST_CRASH_AT": "invoker.inbox_admitted"}}
    async with World.opened(tmp_path, environments=dying, runners=1) as world:
        invoker = world.suite.processes["invoker"]
        await stage(world, "point/", 40)
        assert await asyncio.wait_for(invoker.exited(), 30) == -9
        admitted = await made(world, "point/")
        assert admitted, "it died after the runs were made"
        assert not await settled(world), "and before the events had left"
        invoker.tell({"HOLDFAST_CRASH_AT": None})
        await invoker.start()
        await holds(world, "point/", 40)


@pytest.mark.timeout(180)
async def test_invokers_killed_at_random_make_one_run_of_each_event(tmp_path: Path) -> None:
    chance = random.Random(11)
    async with World.opened(tmp_path, invokers=2, runners=1) as world:
        invokers = [world.suite.processes[name] for name in ("invoker", "invoker-2")]
        for round_ in range(6):
            await stage(world, f"random/{round_}/", 200)
            victim = chance.choice(invokers)
            await asyncio.sleep(chance.uniform(0, 0.3))  # the moment is the point
            await victim.kill()
            await victim.start()
        for round_ in range(6):
            await holds(world, f"random/{round_}/", 200)
