"""Children as an agent has them: started once, awaited like a step, paid for out of its own budget."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast.agent import (
    App,
    ChildFailed,
    Failure,
    Limits,
    NotRecordable,
    Permanent,
    Run,
    StepFailed,
    Usage,
)
from holdfast.agent.execution import Left
from holdfast.agent.wire import value
from tests.agent.brood import Brood
from tests.agent.memory import AMPLE, Counter, Memory

app = App("family")
PART = Limits(steps=10, tools=5, tokens=100)


@dataclass
class Found:
    """What a child finds."""

    words: int


async def _ended(memory: Memory, brood: Brood, *results: Any, running: App = app) -> Any:
    """Run to the end, and let each child end with the next result once all are started."""
    left = list(enumerate(results))

    def started() -> None:
        if len(brood.asked) == len(results):
            for place, result in left:
                asyncio.get_running_loop().call_soon(brood.end, place, result)

    brood.started = started
    assert await memory.run(running) is Left.ENDED
    return value.read(memory.outcome.result)


@app.agent("ask")
async def ask(run: Run) -> list[Any]:
    """Ask one child, and use what it has found."""
    child = await run.spawn("count", {"text": "a b"}, returns=Found, budget=PART, labels={"l": "1"})
    found = await child
    assert isinstance(found, Found)
    return [child.run_id, found.words]


async def test_a_child_is_asked_on_behalf_of_the_same_caller_and_its_result_is_typed() -> None:
    memory = Memory("ask")
    brood = Brood(memory)
    run_id, words = await _ended(memory, brood, {"words": 2})
    (asked,) = brood.asked
    assert (words, run_id) == (2, brood.ids[asked.idempotency_key])
    assert (asked.intent, asked.caller.tenant, dict(asked.labels)) == ("count", "default", {"l": "1"})
    assert value.read_struct(asked.payload) == {"text": "a b"}
    assert asked.idempotency_key == f"{memory.run_id}/spawn"
    assert (asked.budget.max_steps, asked.budget.max_tools, asked.budget.max_tokens) == (10, 5, 100)
    assert (asked.parent.run_id, asked.parent.epoch, asked.parent.step) == (memory.run_id, 1, "spawn")
    (spawned,), (ended,) = memory.told("child_spawned"), memory.told("child_ended")
    assert (spawned.run_id, spawned.intent, ended.run_id) == (run_id, "count", run_id)


async def test_a_child_is_started_once_wherever_its_parent_dies() -> None:
    for after in range(6):
        memory = Memory("ask")
        brood = Brood(memory)
        brood.started = lambda b=brood: b.end(0, {"words": 3})  # type: ignore[misc]
        if not await memory.crash(app, after):
            break
        assert await memory.run(app) is Left.ENDED
        assert value.read(memory.outcome.result)[1] == 3
        assert len(brood.asked) == 1
    else:
        pytest.fail("the run never ended before the crash")


async def test_a_start_that_was_not_recorded_finds_the_child_and_sets_nothing_aside_twice() -> None:
    memory = Memory("left")
    brood = Brood(memory)

    def lost() -> None:
        memory.epoch += 1  # nothing of this lease lands any more

    brood.started = lost
    assert await memory.run(app) is Left.LOST
    assert memory.keys == []
    assert await memory.run(app) is Left.ENDED
    assert (len(brood.asked), brood.calls) == (1, 2)
    assert value.read(memory.outcome.result) == [AMPLE.steps - 10 - 1, AMPLE.tokens - 100]


@app.agent("left")
async def left(run: Run) -> list[int]:
    """Start a child, and say what is left."""
    await run.spawn("count", budget=PART)
    return [run.budget.steps, run.budget.tokens]


@app.agent("settled")
async def settled(run: Run) -> list[list[int]]:
    """Say what is left before a child, with it, and after it."""

    def now() -> list[int]:
        return [run.budget.steps, run.budget.tools, run.budget.tokens]

    before = now()
    child = await run.spawn("count", budget=PART)
    during = now()
    await child
    return [before, during, now()]


def _soon(then: Callable[[], None]) -> None:
    """Do something once the agent has gone on."""
    asyncio.get_running_loop().call_later(0.05, then)


@pytest.mark.parametrize("dies", [False, True])
async def test_what_a_child_is_lent_comes_back_but_for_what_it_has_spent(dies: bool) -> None:  # noqa: FBT001
    memory = Memory("settled", limits=Limits(3600, 100, 50, 1000, 100))
    brood = Brood(memory)
    spent = Usage(steps=4, tools=1, tokens=30)
    if dies:  # the child ends while nobody holds its parent: the next lease knows already
        assert await memory.crash(app, 1)
        brood.end(0, 1, usage=spent, lost=True)
    else:
        brood.started = lambda: _soon(lambda: brood.end(0, 1, usage=spent))
    assert await memory.run(app) is Left.ENDED
    before, during, after = value.read(memory.outcome.result)
    assert after == [100 - 2 - 4, 50 - 1, 1000 - 30]
    if not dies:
        assert (before, during) == ([100, 50, 1000], [100 - 1 - 10, 50 - 5, 1000 - 100])


@app.agent("share")
async def share(run: Run) -> list[Any]:
    """Start children that ask for nothing until there is nothing left."""
    started, reason = 0, ""
    while not reason:
        try:
            await run.spawn("count")
            started += 1
        except StepFailed as failed:
            reason = failed.reason
    return [started, reason]


async def test_children_that_ask_for_nothing_share_what_is_left() -> None:
    memory = Memory("share", limits=Limits(3600, 500, 3, 1600, 100))
    brood = Brood(memory)
    assert await memory.run(app) is Left.ENDED
    assert [asked.budget.max_tokens for asked in brood.asked] == [100, 93, 87]
    assert [asked.budget.max_tools for asked in brood.asked] == [1, 1, 1]
    assert value.read(memory.outcome.result) == [3, "BUDGET_EXCEEDED"]


async def test_what_is_refused_fails_the_step_and_gives_back_what_was_set_aside() -> None:
    memory = Memory("refused")
    brood = Brood(memory)
    brood.refusal = Permanent("no more", reason="TOO_MANY_CHILDREN")
    assert await memory.run(app) is Left.ENDED
    reason, tokens = value.read(memory.outcome.result)
    assert (reason, tokens) == ("TOO_MANY_CHILDREN", AMPLE.tokens)


@app.agent("refused")
async def refused(run: Run) -> list[Any]:
    """Go on without the child."""
    try:
        await run.spawn("count", budget=PART)
    except StepFailed as failed:
        return [failed.reason, run.budget.tokens]
    raise AssertionError


@app.agent("bear")
async def bear(run: Run) -> list[Any]:
    """Go on after a child that has failed."""
    child = await run.spawn("count")
    with pytest.raises(ChildFailed) as failed:
        await child
    ended = await child.outcome()
    assert failed.value.failure == ended.failure == Failure("BROKEN", "it broke", "s", 5)
    return [failed.value.status, ended.result, ended.usage.steps, ended.exhausted]


async def test_a_child_that_fails_raises_and_its_outcome_tells_all() -> None:
    memory = Memory("bear")
    brood = Brood(memory)
    failure = {"reason": "BROKEN", "message": "it broke", "step": "s", "attempts": 5}
    brood.started = lambda: brood.end(
        0, status="DEAD_LETTERED", failure=failure, usage=Usage(steps=7), exhausted="TOKENS"
    )
    assert await memory.run(app) is Left.ENDED
    told = value.read(memory.outcome.result)
    assert told == ["DEAD_LETTERED", None, 7, "TOKENS"]
    assert memory.keys == ["spawn", "spawn#end"]


async def test_a_failed_child_that_is_not_caught_fails_its_parent() -> None:
    memory = Memory("ask")
    brood = Brood(memory)
    brood.started = lambda: brood.end(0, status="CANCELLED")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.failure.reason == "CHILD_FAILED"


async def test_a_result_that_does_not_fit_its_type_fails_the_parent() -> None:
    memory = Memory("ask")
    brood = Brood(memory)
    brood.started = lambda: brood.end(0, {"letters": 3})
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.failure.reason == NotRecordable("").reason


@app.agent("fan")
async def fan(run: Run) -> list[int]:
    """Ask twenty children at once."""

    async def one(number: int) -> int:
        child = await run.spawn("square", {"number": number})
        return int(await child)

    return list(await asyncio.gather(*(one(number) for number in range(20))))


async def test_the_results_of_many_come_in_the_order_in_which_they_were_asked_for() -> None:
    memory = Memory("fan")
    brood = Brood(memory)

    def started() -> None:
        if len(brood.asked) == 20:
            for place in reversed(range(20)):
                number = value.read_struct(brood.asked[place].payload)["number"]
                asyncio.get_running_loop().call_soon(brood.end, place, number**2)

    brood.started = started
    assert await memory.run(app) is Left.ENDED
    assert value.read(memory.outcome.result) == [number**2 for number in range(20)]


@app.agent("both")
async def both(run: Run) -> list[int]:
    """Await one child in two branches."""
    child = await run.spawn("count")

    async def wait() -> int:
        return int(await child)

    return list(await asyncio.gather(wait(), wait(), wait()))


async def test_a_child_that_is_awaited_often_is_recorded_once() -> None:
    memory = Memory("both")
    brood = Brood(memory)
    assert await _ended(memory, brood, 5) == [5, 5, 5]
    assert memory.keys == ["spawn", "spawn#end"]


@app.agent("rest")
async def rest(run: Run) -> int:
    """Wait for a child that takes long."""
    return int(await (await run.spawn("count")))


async def test_a_run_rests_until_its_child_has_ended() -> None:
    memory = Memory("rest")
    brood = Brood(memory)
    assert await memory.run(app) is Left.REQUEUED
    assert memory.parked is not None
    (run_id,) = brood.ids.values()
    assert list(memory.parked.keys) == [f"child:{run_id}"]
    brood.end(0, 4, lost=True)
    assert await memory.run(app) is Left.ENDED
    assert value.read(memory.outcome.result) == 4


changes = Counter()


@app.agent("patched")
async def patched(run: Run) -> bool:
    """Pass a patch between a child's start and its end."""
    child = await run.spawn("count")
    new = run.patched("later") if len(changes) else False
    await child
    return new


async def test_a_patch_before_an_end_that_is_recorded_goes_the_old_way() -> None:
    memory = Memory("patched")
    brood = Brood(memory)
    brood.started = lambda: brood.end(0, 1)
    assert await memory.crash(app, 2)
    assert memory.keys == ["spawn", "spawn#end"]
    changes.note("the code was changed")
    assert await memory.run(app) is Left.ENDED
    assert value.read(memory.outcome.result) is False


@app.agent("patched_after")
async def patched_after(run: Run) -> bool:
    """Pass a patch once a child has ended."""
    await (await run.spawn("count"))
    return run.patched("later")


async def test_a_patch_after_all_that_is_recorded_goes_the_new_way() -> None:
    memory = Memory("patched_after")
    brood = Brood(memory)
    brood.started = lambda: brood.end(0, 1)
    assert await memory.crash(app, 2)
    assert memory.keys == ["spawn", "spawn#end"]
    assert await memory.run(app) is Left.ENDED
    assert value.read(memory.outcome.result) is True


@app.agent("stop")
async def stop(run: Run) -> str:
    """Ask a child to stop, and hear how it ends."""
    child = await run.spawn("count")
    await child.cancel("enough")
    return (await child.outcome()).status


async def test_a_child_can_be_cancelled_by_its_parent() -> None:
    memory = Memory("stop")
    brood = Brood(memory)
    brood.started = lambda: brood.end(0, status="CANCELLED")
    assert await memory.run(app) is Left.ENDED
    assert value.read(memory.outcome.result) == "CANCELLED"
    assert brood.cancelled == [(brood.ids[brood.asked[0].idempotency_key], "enough")]


@pytest.mark.parametrize(
    "terms",
    [{"payload": [1]}, {"on_parent_end": "stay"}, {"budget": Limits(steps=-1)}, {"name": "a/b"}],
)
async def test_terms_that_are_none_are_refused(terms: dict[str, Any]) -> None:
    bad = App("bad")

    @bad.agent("bad")
    async def agent(run: Run) -> str:
        """Ask what cannot be asked."""
        try:
            await run.spawn("count", **terms)
        except ValueError:
            return "refused"
        raise AssertionError

    memory = Memory("bad")
    brood = Brood(memory)
    assert await memory.run(bad) is Left.ENDED
    assert value.read(memory.outcome.result) == "refused"
    assert brood.calls == 0


def test_a_failed_child_says_what_went_wrong() -> None:
    failed = ChildFailed("1", "count", "FAILED", Failure("BROKEN", "it broke"))
    assert str(failed) == "the child count ended FAILED: BROKEN: it broke"
