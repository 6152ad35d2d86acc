"""A signal that was acknowledged is received once, whoever dies between the two."""

import os
import signal
from pathlib import Path

import pytest

from holdfast.client import RunHandle, errors
from tests.crash.invariant import kept_of
from tests.crash.world import World

CRASH_AT = "HOLDFAST_CRASH_AT"


async def heard_once(world: World, handle: RunHandle, texts: list[str]) -> None:
    """Check that the agent got each signal once and in order, and that the record says the same."""
    assert await handle.result(patience=60) == texts
    assert [deed.token for deed in world.deeds(handle.run_id) if deed.what == "heard"] == texts
    received = [
        each async for each in world.client.list_checkpoints(handle.run_id) if each.key.startswith("rec")
    ]
    assert [each.output["payload"] for each in received] == texts
    async with world.client.watch(handle.run_id) as updates:
        told = [update async for update in updates if getattr(update, "kind", "") == "input_received"]
    assert len(told) == len(texts)
    await kept_of(world, [handle.run_id])


async def test_what_a_dead_runner_had_not_consumed_the_next_one_receives(tmp_path: Path) -> None:
    async with World.opened(tmp_path, invokers=2) as world:
        gate = tmp_path / "gate"
        handle = await world.client.invoke("crash.listen", {"file": str(gate), "times": 3})
        first = await world.happened(handle.run_id, "waiting")
        other = world.clients[1]
        for _ in range(2):  # as a client does that has lost the answer
            assert await other.signal(handle.run_id, "input", "one", signal_id="1") == "1"
        with pytest.raises(errors.SignalIdReused):
            await other.signal(handle.run_id, "input", "another", signal_id="1")
        os.kill(first.pid, signal.SIGKILL)
        await other.signal(handle.run_id, "input", "two")
        second = await world.happened(handle.run_id, "waiting", times=2)
        assert second.pid != first.pid
        await other.signal(handle.run_id, "input", "three")  # by an Invoker that dies as it tells
        await world.suite.processes["invoker-2"].kill()
        gate.touch()
        await heard_once(world, handle, ["one", "two", "three"])
        with pytest.raises(errors.RunEnded):
            await world.client.signal(handle.run_id, "input", "late")


@pytest.mark.parametrize("point", ["runner.after_step:2", "runner.after_ack:2"])
async def test_a_runner_that_dies_as_it_consumes_a_signal_loses_and_repeats_nothing(
    tmp_path: Path, point: str
) -> None:
    dies = {"runner": {CRASH_AT: point}}
    async with World.opened(tmp_path, runners=1, environments=dies) as world:
        (victim,) = world.suite.runners
        gate = tmp_path / "gate"
        gate.touch()
        handle = await world.client.invoke("crash.listen", {"file": str(gate), "times": 2})
        await handle.signal("input", "one")
        assert await victim.exited() == -9
        await handle.signal("input", "two")
        victim.tell({CRASH_AT: None})
        await victim.start()
        await heard_once(world, handle, ["one", "two"])
