"""A run moves to the background once, before it would miss its deadline, and a replay knows that it has."""

import asyncio
from typing import Any

import pytest

from holdfast.agent import App, Limits, Run
from holdfast.agent.engine.duration import LAST, LEAST, NAMES, Durations
from holdfast.agent.engine.journal import Refused
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from tests.agent.memory import AMPLE, Memory

SHORT = Limits(deadline=10.0, steps=100, tools=100, tokens=100, context=100)
LONG = Limits(deadline=3600.0, steps=0, tools=7, tokens=0, context=0)


async def echo(text: str) -> str:
    return text


def slow_app(expects: float = 60.0) -> App:
    app = App("slow")

    @app.agent("slow")
    async def slow(run: Run, payload: dict[str, Any]) -> list[bool]:
        moved = [await run.expect(0.001)]
        await run.step(echo, "before")
        moved.append(await run.expect(expects))
        if moved[-1]:
            run.say("this takes a while")
        run.say("on it")
        await run.step(echo, "slow")
        moved.append(await run.expect(expects))
        if payload.get("sleeps"):
            await run.step(asyncio.Event().wait)
        return moved

    return app


def interactive(intent: str, payload: dict[str, Any] | None = None, handoff: Limits | None = LONG) -> Memory:
    memory = Memory(intent, payload, limits=SHORT)
    memory.remaining = SHORT.deadline
    memory.handoff = handoff
    return memory


def handoffs(memory: Memory) -> list[bool]:
    return [commit.handoff for commit in memory.commits if commit.handoff]


async def test_what_is_expected_to_miss_the_deadline_moves_the_run_once() -> None:
    memory = interactive("slow")
    assert await memory.run(slow_app()) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert [value.bool_value for value in memory.outcome.result.list_value.values] == [False, True, False]
    assert handoffs(memory) == [True]
    (told,) = memory.told("handed_off")
    assert told.run_id == memory.run_id
    budget = told.budget
    assert (budget.deadline_ms, budget.max_steps, budget.max_tools) == (3_600_000, 100, 7)
    (commit,) = [commit for commit in memory.commits if commit.handoff]
    assert [event.WhichOneof("event") for event in commit.events.events][-1] == "handed_off"


async def test_what_is_expected_within_the_deadline_moves_nothing() -> None:
    memory = interactive("slow")
    await memory.run(slow_app(expects=0.01))
    assert memory.outcome.status == wire.SUCCEEDED
    assert handoffs(memory) == []
    assert memory.told("handed_off") == []


async def test_where_it_is_not_allowed_the_deadline_ends_the_run_with_what_it_managed() -> None:
    memory = interactive("slow", {"sleeps": True}, handoff=None)
    memory.remaining = 0.4
    await memory.run(slow_app())
    assert (memory.outcome.status, memory.outcome.exhausted) == (wire.PARTIAL, 1)
    assert handoffs(memory) == []
    assert memory.keys == ["echo", "echo#2"]


async def test_the_old_deadline_no_longer_ends_the_run_and_the_new_one_does() -> None:
    app = App("late")

    @app.agent("late")
    async def late(run: Run) -> float:
        await run.expect(60)
        await run.step(asyncio.sleep, 0.6)
        seconds = run.budget.seconds
        assert run.budget.limits.deadline == 1.2
        assert run.budget.elapsed > 10.0
        await run.step(asyncio.Event().wait)
        return seconds

    memory = interactive("late", handoff=Limits(1.2, 0, 0, 0, 0))
    memory.remaining = 0.4
    await memory.run(app)
    assert memory.keys == ["sleep"]
    assert (memory.outcome.status, memory.outcome.exhausted) == (wire.PARTIAL, 1)


async def test_a_crash_around_the_handoff_repeats_nothing_and_answers_alike() -> None:
    whole = interactive("slow")
    await whole.run(slow_app())
    said = [each.text for each in whole.told("said")]
    assert said == ["this takes a while", "on it"]
    for prefix in range(len(whole.commits)):
        memory = interactive("slow")
        assert await memory.crash(slow_app(), prefix)
        landed = len(handoffs(memory))
        if landed:
            memory.remaining, memory.limits = LONG.deadline, LONG.over(SHORT)
        assert await memory.run(slow_app()) is Left.ENDED
        assert memory.outcome.status == wire.SUCCEEDED, prefix
        assert handoffs(memory) == [True], prefix
        assert len(memory.told("handed_off")) == 1, prefix
        assert memory.outcome.result == whole.outcome.result, prefix
        assert [each.text for each in memory.told("said")] == said, prefix


async def test_an_answer_that_was_committed_stays_though_there_is_less_time_now() -> None:
    memory = interactive("slow")
    memory.remaining = 100.0
    assert await memory.crash(slow_app(), 2)  # both steps are recorded, under a deadline that was far
    assert memory.keys == ["echo", "echo#2"]
    memory.remaining = 5.0
    await memory.run(slow_app())
    assert [value.bool_value for value in memory.outcome.result.list_value.values] == [False, False, True]


async def test_a_refused_handoff_stops_the_run() -> None:
    memory = interactive("slow")
    memory.refuse = lambda commit: Refused("INVALID_FIELD", "it may not") if commit.handoff else None
    assert await memory.run(slow_app()) is Left.REQUEUED
    assert handoffs(memory) == []
    assert memory.commits[-1].requeue.failure.reason == "INVALID_FIELD"


async def test_branches_wait_for_one_move_and_only_who_began_it_is_told() -> None:
    app = App("branches")

    @app.agent("branches")
    async def branches(run: Run) -> list[bool]:
        async def branch(number: int) -> bool:
            moved = await run.expect(60)
            await run.step(echo, str(number))
            return moved

        return await run.map(branch, [1, 2, 3])

    memory = interactive("branches")
    memory.hold = True
    run = asyncio.create_task(memory.lease(app).run())
    async with asyncio.timeout(10):
        while not run.done():
            memory.release()
            await asyncio.sleep(0)
    assert [value.bool_value for value in memory.outcome.result.list_value.values] == [True, False, False]
    assert handoffs(memory) == [True]


async def test_a_branch_starts_no_step_while_the_move_is_under_way_and_no_deadline_ends_it() -> None:
    app = App("branches")
    asked = asyncio.Event()

    @app.agent("branches")
    async def branches(run: Run) -> list[str]:
        async def mover() -> str:
            await run.expect(60)
            return "moved"

        async def other() -> str:
            await asked.wait()
            return await run.step(echo, "after the move")

        return [await task for task in (run.task(mover()), run.task(other()))]

    memory = interactive("branches")
    memory.remaining = 0.05
    memory.hold = True
    running = asyncio.create_task(memory.lease(app).run())
    async with asyncio.timeout(10):
        while memory.live[-1:] == [] or memory.live[-1].WhichOneof("event") != "handed_off":  # noqa: ASYNC110 - the engine's turn
            await asyncio.sleep(0)
        await asyncio.sleep(memory.remaining)  # the old deadline passes: the clock is what is waited for
        asked.set()
        await asyncio.sleep(0)
        assert memory.keys == []
        while not running.done():
            memory.release()
            await asyncio.sleep(0)
    assert memory.outcome.status == wire.SUCCEEDED
    assert memory.keys == ["task#2/echo"]


async def test_inside_of_a_step_nothing_is_expected() -> None:
    app = App("steps")

    @app.agent("inside")
    async def inside(run: Run) -> bool:
        async def nested() -> bool:
            return await run.expect(60)

        return await run.step(nested)

    memory = interactive("inside")
    await memory.run(app)
    assert memory.commits[-1].requeue.failure.reason == "RuntimeError"
    assert handoffs(memory) == []


@pytest.mark.parametrize(("predict", "moves"), [(True, [True]), (False, [])])
async def test_a_step_that_usually_takes_longer_than_is_left_moves_the_run(
    predict: bool,  # noqa: FBT001 - a parameter of the test
    moves: list[bool],
) -> None:
    app = App("usual")

    @app.agent("usual", predict=predict)
    async def usual(run: Run, payload: dict[str, float]) -> None:
        for _ in range(int(payload["times"])):
            await run.step(asyncio.sleep, payload["seconds"])

    warm = Memory("usual", {"times": LEAST, "seconds": 0.05}, limits=AMPLE)
    await warm.run(app)
    memory = interactive("usual", {"times": 1, "seconds": 0.01})
    memory.remaining = 0.045
    await memory.run(app)
    assert memory.outcome.status == wire.SUCCEEDED
    assert handoffs(memory) == moves


async def test_a_run_without_leave_to_move_is_not_moved_by_what_is_usual() -> None:
    app = App("usual")

    @app.agent("usual")
    async def usual(run: Run, payload: dict[str, float]) -> None:
        for _ in range(int(payload["times"])):
            await run.step(asyncio.sleep, payload["seconds"])

    await Memory("usual", {"times": LEAST, "seconds": 0.05}, limits=AMPLE).run(app)
    memory = interactive("usual", {"times": 1, "seconds": 0.5}, handoff=None)
    memory.remaining = 0.1
    await memory.run(app)
    assert memory.outcome.status == wire.PARTIAL
    assert handoffs(memory) == []


def test_nothing_is_said_of_what_was_seen_too_seldom() -> None:
    durations = Durations()
    for number in range(LEAST):
        assert durations.p95("step") is None
        durations.note("step", float(number))
    assert durations.p95("step") == 18.0
    assert durations.p95("other") is None


def test_the_last_durations_count_and_names_are_bounded() -> None:
    durations = Durations()
    for _ in range(LAST):
        durations.note("step", 100.0)
    for _ in range(LAST):
        durations.note("step", 1.0)
    assert durations.p95("step") == 1.0
    for number in range(NAMES + 10):
        for _ in range(LEAST):
            durations.note(f"step {number}", 1.0)
    assert durations.p95(f"step {NAMES - 2}") == 1.0
    assert durations.p95(f"step {NAMES + 5}") is None
