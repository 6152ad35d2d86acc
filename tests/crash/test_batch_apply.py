"""A batch is applied and undone while all that does it dies at random: each item once, none forgotten."""

import asyncio
import random
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from holdfast.client import (
    ApplyEffect,
    BatchInput,
    BatchItemStatus,
    BatchSpec,
    BatchStatus,
    Invocation,
    Person,
)
from holdfast.ledger.batch_view import get
from tests.crash.havoc import ROUNDS, say
from tests.crash.world import World
from tests.support.batch import counts
from tests.support.batch_apply import check, effects

ITEMS = 300
PER_SECOND = 60.0
ANN = Person("ann")


async def staged(world: World) -> str:
    spec = BatchSpec(
        Invocation("crash.work", {"steps": 1, "pause": 0, "effects": False}),
        start_when_uploaded=True,
        apply=ApplyEffect("sink", "undone"),
        tolerated_share=1.0,
    )
    batch = await world.client.batches.create(spec, [BatchInput({}, f"item-{n}") for n in range(ITEMS)])
    await stands_at(world, batch.batch_id, BatchStatus.IN_REVIEW)
    await world.client.batches.review(batch.batch_id, rest=True, reviewer=ANN)
    return batch.batch_id


async def stands_at(world: World, batch_id: str, status: BatchStatus) -> None:
    async def there() -> bool:
        return (await world.client.batches.get(batch_id))[0].status is status

    await world.until(there, f"the batch is {status.name}", patience=120.0)


async def kept(world: World, batch_id: str, deeds: int) -> None:
    """Hold counters against items, items against deeds, and those against what the outside saw."""
    async with world.ledger() as db:
        async with db.connection() as connection:
            which = await get(connection, "default", UUID(batch_id))
        await counts(db, which)
        await check(db, which)
        keys = [each["idempotency_key"] for each in await effects(db, which)]
    assert len(keys) == deeds == len(set(keys))
    applied = Counter(one.idempotency_key for one in world.receiver.deliveries if one.applied)
    assert {key: n for key, n in applied.items() if n > 1} == {}


async def killing(world: World, seed: int, kills: int) -> None:
    """Kill what applies and what delivers, one after the other, and start each again."""
    chance = random.Random(seed)
    names = [name for name in world.suite.processes if name.startswith(("invoker", "dispatcher"))]
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.0, 0.6))  # the moment is the point
        name = chance.choice(names)
        say(f"kill {name}")
        await world.suite.processes[name].kill()
        await world.suite.processes[name].start()


async def watched(world: World, batch_id: str, over: asyncio.Task[None]) -> None:
    """Look again and again whether the counters are the items' own, whatever has just died."""
    async with world.ledger() as db:
        async with db.connection() as connection:
            which = await get(connection, "default", UUID(batch_id))
        while not over.done():
            await counts(db, which)
            await asyncio.sleep(0.1)


@pytest.mark.timeout(240 + 60 * ROUNDS)
@pytest.mark.parametrize("seed", [11, 12])
async def test_kills_while_a_batch_is_applied_and_undone_lose_and_double_nothing(
    tmp_path: Path, seed: int
) -> None:
    say(f"seed {seed}")
    async with World.opened(tmp_path, invokers=2) as world:
        await world.destination("undone")
        batch_id = await staged(world)
        havoc = asyncio.create_task(killing(world, seed, 6 * ROUNDS))
        _, count = await world.client.batches.apply(batch_id, items_per_second=PER_SECOND)
        assert count == ITEMS
        await watched(world, batch_id, havoc)
        await havoc
        await stands_at(world, batch_id, BatchStatus.APPLIED)
        _, progress = await world.client.batches.get(batch_id)
        assert progress.counts == {BatchItemStatus.APPLIED: ITEMS}
        assert sum(one.applied for one in world.receiver.deliveries) == ITEMS
        await kept(world, batch_id, ITEMS)

        havoc = asyncio.create_task(killing(world, seed + 1, 3 * ROUNDS))
        await world.client.batches.rollback(batch_id, "wrong")
        await havoc
        await stands_at(world, batch_id, BatchStatus.ROLLED_BACK)
        _, progress = await world.client.batches.get(batch_id)
        assert progress.counts == {BatchItemStatus.ROLLED_BACK: ITEMS}
        assert sum(one.applied for one in world.receiver.deliveries) == 2 * ITEMS
        await kept(world, batch_id, 2 * ITEMS)
