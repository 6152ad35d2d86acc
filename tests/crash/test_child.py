"""Children are started once and heard of once, whoever dies; and they end as their parent's end says."""

import asyncio
from pathlib import Path

from holdfast.client import Event, RunStatus
from tests.crash.invariant import kept_of
from tests.crash.world import World


async def _children(world: World, run_id: str) -> list[str]:
    found = [run.run_id async for run in world.client.list_runs(parent_run_id=run_id)]
    return found[::-1]


async def _status(world: World, run_id: str) -> RunStatus:
    return (await world.client.get_run(run_id)).status


async def test_many_children_are_started_once_though_the_runner_dies_before_their_starts_are_recorded(
    tmp_path: Path,
) -> None:
    async with World.opened(tmp_path, runners=1, invokers=2) as world:
        (runner,) = world.suite.runners
        await runner.stop()
        runner.tell({"HOLDFAST_CRASH_AT": "runner.after_step:7"})
        await runner.start()
        handle = await world.client.invoke("crash.family", {"children": 20})
        assert await runner.exited() == -9
        begun = await _children(world, handle.run_id)
        assert begun  # started, and some of them not recorded
        runner.tell({"HOLDFAST_CRASH_AT": None})
        await runner.start()
        assert await handle.result(patience=60) == [number**2 for number in range(20)]
        children = await _children(world, handle.run_id)
        assert len(children) == 20
        assert children[: len(begun)] == begun
        run = await world.client.get_run(handle.run_id)
        assert (run.usage.steps, run.lent.steps) == (20 * 2 + 20, 0)
        kinds = await _kinds(world, handle.run_id)
        assert (kinds.count("child_spawned"), kinds.count("child_ended")) == (20, 20)
        await kept_of(world, [handle.run_id, *children])


async def _kinds(world: World, run_id: str) -> list[str]:
    async with world.client.watch(run_id) as updates:
        return [update.kind async for update in updates if isinstance(update, Event)]


async def test_a_parent_rests_while_everything_dies_and_hears_of_its_child(tmp_path: Path) -> None:
    async with World.opened(tmp_path, runners=1) as world:
        handle = await world.client.invoke("crash.family", {"children": 1, "end": "rests"})

        async def both_rest() -> bool:
            below = await _children(world, handle.run_id)
            ids = [handle.run_id, *below]
            return len(ids) == 2 and {await _status(world, each) for each in ids} == {RunStatus.PARKED}

        await world.until(both_rest, "parent and child rest")
        (child,) = await _children(world, handle.run_id)
        down = [*world.suite.runners, *(world.suite.processes[name] for name in ("checkpoint", "invoker"))]
        for process in down:
            await process.kill()
        for process in reversed(down):
            await process.start()
        await world.client.signal(child, "go", None)
        assert await handle.result(patience=60) == [0]
        await kept_of(world, [handle.run_id, child])


async def test_a_child_in_the_dead_letters_or_failed_raises_in_its_parent(tmp_path: Path) -> None:
    async with World.opened(
        tmp_path, runners=1, environments={"invoker": {"HOLDFAST_MAX_ATTEMPTS": "1"}}
    ) as world:
        handles = [
            await world.client.invoke("crash.family", {"children": 1, "end": end})
            for end in ("breaks", "fails")
        ]
        told = await asyncio.gather(*(handle.result(patience=60) for handle in handles))
        assert told == [[["DEAD_LETTERED", "it broke"]], [["FAILED", "it failed"]]]


async def test_a_child_at_work_is_stopped_when_its_parent_fails(tmp_path: Path) -> None:
    async with World.opened(tmp_path, runners=1) as world:
        handle = await world.client.invoke("crash.leave", {})

        async def at_work() -> bool:
            below = await _children(world, handle.run_id)
            return bool(below) and (await world.client.get_run(below[0])).usage.steps == 1

        await world.until(at_work, "the child works")
        (child,) = await _children(world, handle.run_id)
        await world.client.signal(handle.run_id, "go", None)
        ended = await world.client.await_run(child, patience=60)
        assert (ended.status, await _status(world, handle.run_id)) == (RunStatus.CANCELLED, RunStatus.FAILED)


async def _family(world: World, run_id: str) -> list[str]:
    found = [run_id]
    for each in found:
        found += await _children(world, each)
    return found


async def test_a_tree_goes_with_its_root_level_by_level_and_leaves_who_goes_on(tmp_path: Path) -> None:
    async with World.opened(tmp_path, runners=2) as world:
        root = await world.client.invoke("crash.tree", {"depth": 3})
        everyone: list[str] = []

        async def all_rest() -> bool:
            everyone[:] = await _family(world, root.run_id)
            if len(everyone) < 4 * 2:
                return False
            return {await _status(world, each) for each in everyone} == {RunStatus.PARKED}

        await world.until(all_rest, "the whole tree rests")
        await world.client.cancel(root.run_id, "enough")
        runs = [await world.client.get_run(each) for each in everyone]
        trees = [run.run_id for run in runs if run.intent == "crash.tree"]
        free = [run.run_id for run in runs if run.intent == "crash.member"]

        async def trees_ended() -> bool:
            return {await _status(world, each) for each in trees} == {RunStatus.CANCELLED}

        await world.until(trees_ended, "the tree is cancelled")
        assert {await _status(world, each) for each in free} == {RunStatus.PARKED}
        for each in free:
            await world.client.signal(each, "go", None)
            ended = await world.client.await_run(each, patience=60)
            assert ended.outcome is not None
            assert ended.outcome.result == 0
        run = await world.client.get_run(root.run_id)
        recorded = 0
        for each in everyone:
            recorded += sum([step.usage.steps async for step in world.client.list_checkpoints(each)])
        assert (run.usage.steps, run.lent.steps) == (recorded, 0)
