import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.agent import App, Run
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Memory


async def echo(number: int) -> int:
    return number


def an_app(body: Callable[[Run], object]) -> App:
    app = App("patches")

    @app.agent("patch")
    async def agent(run: Run) -> object:
        return await body(run)  # type: ignore[misc]

    return app


async def test_a_new_run_goes_the_new_way_and_so_does_its_replay() -> None:
    async def body(run: Run) -> list[bool]:
        await run.step(echo, 1)
        first = run.patched("p")
        await run.step(echo, 2 if first else 3)
        return [first, run.patched("p")]

    app = an_app(body)
    memory = Memory("patch")
    assert await memory.crash(app, 2)
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert [value.bool_value for value in memory.outcome.result.list_value.values] == [True, True]


async def test_a_run_that_passed_before_the_patch_goes_the_old_way_and_one_that_comes_later_the_new() -> None:
    async def before(run: Run) -> None:
        await run.step(echo, 1)
        await run.step(echo, 3)
        await run.step(echo, 4)

    answers: list[tuple[bool, bool]] = []

    async def after(run: Run) -> None:
        await run.step(echo, 1)
        early = run.patched("early")
        await run.step(echo, 2 if early else 3)
        late = run.patched("late")
        await run.step(echo, 5 if late else 4)
        answers.append((early, late))

    memory = Memory("patch")
    assert await memory.crash(an_app(before), 2)
    assert await memory.crash(an_app(after), 1)
    assert await memory.run(an_app(after)) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert answers == [(False, True)] * 2


async def test_a_branch_of_a_run_that_went_on_goes_the_old_way() -> None:
    answers: list[bool] = []

    async def before(run: Run) -> None:
        async def silent() -> None:
            await asyncio.sleep(0)

        await run.task(silent())
        await run.step(echo, 1)
        await run.step(echo, 2)

    async def after(run: Run) -> None:
        async def silent() -> None:
            answers.append(run.patched("p"))

        await run.task(silent())
        await run.step(echo, 1)
        await run.step(echo, 2)

    memory = Memory("patch")
    assert await memory.crash(an_app(before), 1)
    assert await memory.run(an_app(after)) is Left.ENDED
    assert answers == [False]


async def test_a_step_asked_as_another_kind_has_drifted() -> None:
    async def before(run: Run) -> None:
        await run.step(echo, 1)
        await run.step(echo, 2)

    async def after(run: Run) -> None:
        await run.tool(echo, number=1)

    memory = Memory("patch")
    assert await memory.crash(an_app(before), 1)
    await memory.run(an_app(after))
    assert memory.outcome.status == wire.DRIFTED
    assert "STEP_KIND_FUNCTION" in memory.outcome.failure.message
    assert "STEP_KIND_TOOL" in memory.outcome.failure.message


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 6),
    patches=st.sets(st.integers(0, 5)),
    changes=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    branches=st.booleans(),
)
def test_answers_never_change_for_a_run(
    *, length: int, patches: set[int], changes: list[int], branches: bool
) -> None:
    """Each crash may meet code with one more of the patches; what was answered once is answered always."""
    answered: dict[str, bool] = {}

    def code(known: set[int]) -> App:
        async def walk(run: Run, name: str) -> None:
            for at in range(length):
                new = False
                if at in known:
                    new = run.patched(f"p{at}")
                await run.step(echo, at + 100 * new)
                answered.setdefault(f"{name}/{at}", new)
                assert answered[f"{name}/{at}"] is new

        async def body(run: Run) -> None:
            if branches:
                await run.map(lambda name: walk(run, name), ["a", "b"])
            await walk(run, "root")

        return an_app(body)

    async def explore() -> None:
        memory = Memory("patch")
        ordered = sorted(patches)
        for number, commits in enumerate(changes):
            if not await memory.crash(code(set(ordered[:number])), commits):
                break
        else:
            await memory.run(code(patches))
        assert memory.outcome.status == wire.SUCCEEDED, memory.outcome.failure

    asyncio.run(explore())


async def test_a_patch_needs_a_name() -> None:
    async def body(run: Run) -> None:
        with pytest.raises(ValueError, match="name"):
            run.patched("a/b")

    memory = Memory("patch")
    await memory.run(an_app(body))
    assert memory.outcome.status == wire.SUCCEEDED


async def test_a_drifted_run_goes_on_from_its_records_once_the_code_is_put_right() -> None:
    executed: list[int] = []

    async def note(number: int) -> int:
        executed.append(number)
        return number

    def code(second: int) -> App:
        async def body(run: Run) -> int:
            return await run.step(note, 1) + await run.step(note, second) + await run.step(note, 5)

        return an_app(body)

    memory = Memory("patch")
    assert await memory.crash(code(2), 2)
    executed.clear()
    assert await memory.run(code(3)) is Left.ENDED
    assert memory.outcome.status == wire.DRIFTED
    assert memory.outcome.failure.step == "note#2"
    assert await memory.run(code(2)) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert executed == [5]
