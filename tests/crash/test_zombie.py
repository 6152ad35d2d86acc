"""A runner that slept past its lease wakes up and finds that nothing of what it does counts any more."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.evidence import collect
from tests.crash.invariant import Broken, kept_of
from tests.crash.world import World

CHANCES = 6
SABOTAGED = {"checkpoint": "tests.crash.sabotage.checkpoint"}


async def overtaken(world: World, folder: Path) -> str:
    """Let a run be finished by another runner while the first sleeps in the middle of it; wake the first."""
    gate = folder / "gate"
    handle = await world.client.invoke("crash.gate", {"file": str(gate)})
    run_id = handle.run_id
    at_the_gate = await world.happened(run_id, "executed", step="wait")
    zombie = world.runner_of(at_the_gate)
    zombie.pause()
    await world.happened(run_id, "executed", times=2, step="wait")
    gate.touch()
    await handle.ended(patience=30)
    before = await collect(world, [run_id])
    zombie.resume()
    # Its commit is answered when one that it sends after it is; the other runner leaves it the work.
    (other,) = (runner for runner in world.suite.runners if runner is not zombie)
    await other.kill()
    later = await world.client.invoke("crash.gate", {"file": str(gate)})
    await later.ended(patience=30)
    assert world.deeds(later.run_id)[-1].pid == zombie.pid
    after = await collect(world, [run_id])
    _unchanged(before.records, after.records, "records")
    _unchanged(before.transcripts, after.transcripts, "transcripts")
    _unchanged(
        {key: replace(each, status=0) for key, each in enumerate(before.effects)},
        {key: replace(each, status=0) for key, each in enumerate(after.effects)},
        "effects",
    )
    _unchanged(before.runs, after.runs, "rows")
    return run_id


def _unchanged(before: object, after: object, what: str) -> None:
    if before != after:
        raise Broken(f"2: a zombie has changed the {what}:\n{before}\n{after}")


async def test_a_runner_that_slept_past_its_lease_writes_nothing(tmp_path: Path) -> None:
    async with World.opened(tmp_path) as world:
        run_id = await overtaken(world, tmp_path)
        evidence = await kept_of(world, [run_id])
        executed = [deed for deed in evidence.deeds if deed.what == "executed" and deed.step == "wait"]
        assert len({deed.pid for deed in executed}) == 2
        assert [each.body["token"] for each in evidence.effects] == [executed[1].token]


async def test_without_the_fence_the_zombie_is_seen_to_write(tmp_path: Path) -> None:
    for chance in range(CHANCES):  # now and then it hears that its session is over before it commits
        folder = tmp_path / str(chance)
        folder.mkdir()
        if await _written_without_the_fence(folder):
            return
    pytest.fail(f"in {CHANCES} lives without a fence no zombie has written")


async def _written_without_the_fence(folder: Path) -> bool:
    environments = {"checkpoint": {"HOLDFAST_TEST_SABOTAGE": "no fence"}}
    async with World.opened(folder, environments=environments, modules=SABOTAGED) as world:
        try:
            await overtaken(world, folder)
        except Broken as seen:
            return "a zombie has changed" in str(seen)
    return False
