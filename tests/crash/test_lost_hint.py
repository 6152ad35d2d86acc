"""Notices are hints: without them work is found by polling, and without both it is not."""

from pathlib import Path

import pytest

from tests.crash.invariant import Broken, kept_of, settled
from tests.crash.world import World

MODULES = {"invoker": "tests.crash.sabotage.invoker"}


async def through_the_other_invoker(world: World, runs: int) -> list[str]:
    """Invoke at an Invoker without a runner; the other, which has it, knows nothing of it."""
    return [(await world.clients[1].invoke("crash.work", {"steps": 1})).run_id for _ in range(runs)]


def sabotaged(how: str) -> dict[str, dict[str, str]]:
    return {"invoker": {"HOLDFAST_TEST_SABOTAGE": how, "HOLDFAST_QUEUE_UNKNOWN_INTENTS": "1"}}


async def test_without_hints_polling_finds_the_work(tmp_path: Path) -> None:
    async with World.opened(
        tmp_path, invokers=2, runners=1, modules=MODULES, environments=sabotaged("no hints")
    ) as world:
        await kept_of(world, await through_the_other_invoker(world, 5))


async def test_without_hints_and_polling_runs_are_seen_to_be_stuck(tmp_path: Path) -> None:
    async with World.opened(
        tmp_path, invokers=2, runners=1, modules=MODULES, environments=sabotaged("no hints, no polling")
    ) as world:
        await through_the_other_invoker(world, 5)
        with pytest.raises(Broken, match="11: after"):
            await settled(world, patience=4)
