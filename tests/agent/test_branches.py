"""Branches of an agent: each a scope, all ended with the run."""

import asyncio

import pytest

from holdfast.agent import App, Dimension, Limits, Permanent, Run, StepFailed, step
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Memory


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


async def test_a_map_keeps_order_and_bounds_how_many_go_on_at_once() -> None:
    app = App("map")
    inside, most = 0, 0

    async def visit(number: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.001 * (5 - number % 5))
        inside -= 1
        return number

    @app.agent("map")
    async def agent(run: Run) -> list[int]:
        return await run.map(step(visit), range(20), at_once=4)

    memory = Memory("map")
    assert await memory.run(app) is Left.ENDED
    assert [value.number_value for value in memory.outcome.result.list_value.values] == list(range(20))
    assert most == 4
    assert sorted(memory.keys) == sorted(f"map.{number}/visit" for number in range(1, 21))


async def test_maps_inside_of_maps_and_an_empty_one() -> None:
    app = App("nested")

    @app.agent("nested")
    async def agent(run: Run) -> int:
        async def row(numbers: list[int]) -> int:
            return sum(await run.map(step(double), numbers))

        assert await run.map(row, []) == []
        return sum(await run.map(row, [[1, 2], [3]]))

    memory = Memory("nested")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.number_value == 12
    assert sorted(memory.keys) == ["map#2.1/map.1/double", "map#2.1/map.2/double", "map#2.2/map.1/double"]


async def test_the_first_failure_of_a_map_cancels_the_others_and_is_raised_as_it_is() -> None:
    app = App("fails")
    cancelled: list[int] = []

    async def fail(number: int) -> None:
        if number == 2:
            raise Permanent("two", reason="TWO")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    @app.agent("fails")
    async def agent(run: Run) -> str:
        with pytest.raises(StepFailed) as caught:
            await run.map(step(fail), [1, 2, 3])
        return caught.value.reason

    memory = Memory("fails")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "TWO"
    assert 1 in cancelled  # the third may not have begun: what the second did must be durable first


@pytest.mark.parametrize("how", ["map", "gather", "group", "wait_for"])
async def test_a_budget_that_ends_in_a_branch_ends_the_run(how: str) -> None:
    app = App("spent")

    @app.agent("spent")
    async def agent(run: Run) -> None:
        async def branch(number: int) -> None:
            await run.step(double, number)

        if how == "map":
            await run.map(branch, range(5))
        elif how == "gather":
            await asyncio.gather(*[branch(number) for number in range(5)], return_exceptions=True)
        elif how == "wait_for":
            for number in range(5):
                await asyncio.wait_for(branch(number), 1)
        else:
            async with asyncio.TaskGroup() as group:
                for number in range(5):
                    group.create_task(branch(number))

    memory = Memory("spent", limits=Limits(deadline=60, steps=3, tools=9, tokens=9, context=9))
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.PARTIAL
    assert Dimension(int(memory.outcome.exhausted)) is Dimension.STEPS
    assert len(memory.keys) <= 3


async def test_tasks_that_a_step_makes_do_not_move_the_numbers_of_the_agents_own() -> None:
    app = App("inner")
    crashed = False

    async def busy() -> int:
        return sum(await asyncio.gather(*[asyncio.create_task(double(number)) for number in range(3)]))

    @app.agent("inner")
    async def agent(run: Run) -> int:
        first = await run.step(busy)

        async def branch() -> int:
            return await run.step(double, first)

        return await asyncio.create_task(branch())

    memory = Memory("inner")
    crashed = await memory.crash(app, 1)
    assert crashed
    assert await memory.run(app) is Left.ENDED
    assert memory.keys == ["busy", "task/double"]


async def test_a_branch_cancelled_by_the_agent_leaves_no_record_and_the_run_goes_on() -> None:
    app = App("race")

    async def slow() -> None:
        await asyncio.sleep(60)

    @app.agent("race")
    async def agent(run: Run) -> int:
        try:
            async with asyncio.timeout(0.01):
                await run.step(slow)
        except TimeoutError:
            return await run.step(double, 1)
        return 0

    memory = Memory("race")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.number_value == 2
    assert memory.keys == ["double"]


async def test_a_run_is_of_no_use_outside_of_its_agent() -> None:
    app = App("leak")
    leaked: list[Run] = []

    @app.agent("leak")
    async def agent(run: Run) -> None:
        leaked.append(run)

    memory = Memory("leak")
    assert await memory.run(app) is Left.ENDED
    with pytest.raises(RuntimeError, match="only be used from its agent's own tasks"):
        leaked[0].say("hello")
