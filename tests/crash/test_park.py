"""A run that rests outlives everything that has run it, and is woken once."""

import time
from pathlib import Path

from holdfast.client import RunHandle, RunStatus
from tests.crash.invariant import kept_of
from tests.crash.world import World


async def _rests(world: World, handle: RunHandle) -> bool:
    return (await world.client.get_run(handle.run_id)).status is RunStatus.PARKED


async def test_a_run_rests_while_everything_dies_and_goes_on_with_what_comes(tmp_path: Path) -> None:
    async with World.opened(tmp_path, invokers=2, runners=1) as world:
        handle = await world.client.invoke("crash.rest", {"sleep": 2.5})
        await world.until(lambda: _rests(world, handle), "the run rests")
        (runner,) = world.suite.runners
        checkpoint = world.suite.processes["checkpoint"]
        for process in (runner, checkpoint):
            await process.kill()
        assert await world.clients[1].signal(handle.run_id, "answer", "yes", signal_id="1") == "1"
        assert await world.clients[1].signal(handle.run_id, "answer", "yes", signal_id="1") == "1"
        for process in (checkpoint, runner):
            await process.start()
        heard = await world.happened(handle.run_id, "heard")
        began = time.monotonic()
        await world.until(lambda: _rests(world, handle), "the run rests")
        dead = (runner, world.suite.processes["invoker"], world.suite.processes["invoker-2"])
        for process in dead:
            await process.kill()
        for process in reversed(dead):  # a runner is ready once an Invoker has taken it
            await process.start()
        first, answer, last = await handle.result(patience=60)
        assert time.monotonic() - began >= 2.0  # what was slept before `heard` was seen counts, too
        assert answer == heard.token == "yes"
        assert first != last
        executed = [deed.token for deed in world.deeds(handle.run_id) if deed.what == "executed"]
        assert executed == [first, last]
        await kept_of(world, [handle.run_id])
