"""An effect is committed with its step or not at all: shown by a Checkpoint service that does otherwise."""

from pathlib import Path

import pytest

from tests.crash.invariant import Broken, kept
from tests.crash.load import Load
from tests.crash.world import World


async def test_an_effect_committed_apart_from_its_step_is_noticed(tmp_path: Path) -> None:
    told = {"HOLDFAST_TEST_SABOTAGE": "effects apart", "HOLDFAST_CRASH_AT": "sabotage.staged"}
    environments = {"checkpoint": told}
    modules = {"checkpoint": "tests.crash.sabotage.checkpoint"}
    async with World.opened(tmp_path, environments=environments, modules=modules) as world:
        checkpoint, runner = world.suite.processes["checkpoint"], world.suite.runners[0]
        load = Load(world, seed=5, payload={"fresh_keys": True})
        await load.invoke()
        assert await checkpoint.exited() == -9
        for each in world.suite.runners:  # or it would send the same commit again, and nobody would know
            await each.kill()
        checkpoint.tell({"HOLDFAST_CRASH_AT": None})
        await checkpoint.start()
        await runner.start()
        with pytest.raises(Broken, match="of an execution that is not recorded"):
            await kept(world, load)
