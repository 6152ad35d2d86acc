"""However often and wherever the same is asked, it is one run."""

import asyncio
import random
from pathlib import Path

from holdfast.client import Invocation, Shape
from tests.crash.invariant import kept_of
from tests.crash.world import World, client_of

KEY = "the same"
PAYLOAD = {"steps": 1}


async def test_a_hundred_identical_invokes_over_two_invokers_are_one_run(tmp_path: Path) -> None:
    async with World.opened(tmp_path, invokers=2) as world:
        handles = await asyncio.gather(
            *(world.clients[at % 2].invoke("crash.work", PAYLOAD, idempotency_key=KEY) for at in range(100))
        )
        assert len({handle.run_id for handle in handles}) == 1
        assert sum(not handle.reattached for handle in handles) == 1
        evidence = await kept_of(world, [handles[0].run_id])
        assert evidence.keys == {KEY: 1}
        assert len([deed for deed in evidence.deeds if deed.what == "started"]) == 1


async def test_duplicate_events_are_one_run_though_an_invoker_dies_among_them(tmp_path: Path) -> None:
    chance = random.Random(77)
    async with World.opened(tmp_path, invokers=2) as world:
        events = [
            Invocation(
                "crash.work", PAYLOAD, idempotency_key=f"event-{at}", shape=Shape.WORKER, ordering_key="one"
            )
            for at in range(10)
        ]
        both = ",".join(world.suite.invoker_addresses)
        victim = world.suite.processes["invoker"]
        async with client_of(world.suite, both) as client:

            async def deliver() -> list[str]:
                published = await client.publish(chance.sample(events, len(events)) * 2)
                assert [each.refusal for each in published if each.refusal] == []
                return [each.run_id for each in published]

            delivering = [asyncio.create_task(deliver()) for _ in range(8)]
            await victim.kill()
            await victim.start()
            run_ids = {run_id for each in await asyncio.gather(*delivering) for run_id in each}
        assert len(run_ids) == len(events)
        await kept_of(world, run_ids)
