"""Killing a run at every commit finds what a crash would change, and nothing where it changes nothing."""

import itertools
from datetime import timedelta
from typing import Any

import pytest

from holdfast.agent import App, NothingReceived, Run, step
from holdfast.agent.testing import Script, Signal, crash_everywhere, crash_everywhere_async, tool_call
from holdfast.agent.testing.lab import perform
from holdfast.agent.testing.ledger import Ledger
from holdfast.agent.testing.scene import Kill, Scene
from holdfast.v1.checkpoint_service_pb2 import LoadRunResponse


async def fetch(number: int) -> int:
    return number


def app_of(fn: Any) -> App:
    app = App("desk")
    app.agent("desk", session=dict)(fn)
    return app


async def whole(run: Run) -> list[Any]:
    """Do a little of all there is."""
    run.say("Begin.")
    first = await run.step(fetch, 1)
    run.send("orders", {"first": first}, ordering_key="a")
    talk = await run.converse_with_tools("What now?", [fetch])
    await run.sleep(timedelta(days=2))
    run.send("orders", {"second": talk.content}, ordering_key="a")
    answer = await run.receive("review")
    numbers = await run.map(step(repeatable=True)(fetch), [1, 2, 3])
    run.session["done"] = True
    run.say("End.")
    return [first, talk.content, answer, numbers]


def test_an_agent_that_does_all_through_its_run_survives_everything() -> None:
    script = Script(tool_call("fetch", number=7), "Seven.")
    killed = crash_everywhere(app_of(whole), "desk", model=script, answers={"review": ["fine"]}, session={})
    assert killed > 40


async def test_it_can_be_awaited() -> None:
    async def desk(run: Run) -> int:
        return await run.step(fetch, 1)

    assert await crash_everywhere_async(app_of(desk), "desk") > 0


def test_a_result_that_depends_on_how_often_it_ran_is_found() -> None:
    async def desk(run: Run) -> int:
        await run.step(fetch, 1)
        return run.attempt

    with pytest.raises(
        AssertionError, match=r"Killed before commit 1 \(step fetch\): result differs: 1 .*, 2 now"
    ):
        crash_everywhere(app_of(desk), "desk")


def test_an_effect_that_is_not_the_same_again_is_found() -> None:
    counter = itertools.count()

    async def desk(run: Run) -> None:
        run.send("orders", {"n": 1}, key=f"order-{next(counter)}")

    with pytest.raises(AssertionError, match="effects differ at effects to orders"):
        crash_everywhere(app_of(desk), "desk")


def test_state_between_the_runs_is_left_out_by_making_the_app_anew() -> None:
    def make() -> App:
        calls: list[int] = []

        async def count() -> int:
            calls.append(1)
            return len(calls)

        async def desk(run: Run) -> int:
            first = await run.step(count)
            await run.step(fetch, 1)
            return first

        return app_of(desk)

    with pytest.raises(AssertionError, match="step count"):
        crash_everywhere(make, "desk")  # a lost first call is counted


def test_a_step_that_is_lost_before_it_lands_runs_again_and_one_that_landed_does_not() -> None:
    done: list[int] = []

    async def note() -> None:
        done.append(1)

    async def desk(run: Run) -> None:
        await run.step(note)
        await run.step(fetch, 1)

    for landed, calls in ((False, 2), (True, 1)):
        done.clear()
        performance = perform(app_of(desk), Scene("desk"), [Kill(1, landed=landed)])
        assert len(performance.deaths) == 1
        assert performance.result.status == "SUCCEEDED"
        assert len(done) == calls
        assert performance.again == []


def test_the_last_commit_counts_though_nobody_hears_of_it() -> None:
    async def desk(run: Run) -> str:
        run.send("orders", {})
        return "done"

    app = app_of(desk)
    performance = perform(app, Scene("desk"), [Kill(1, landed=True)])
    assert performance.result.value == "done"
    assert performance.result.leases == 1
    assert len(performance.result.effects) == 1


def test_a_runner_that_dies_too_often_leaves_a_dead_letter() -> None:
    async def desk(run: Run) -> None:
        await run.step(fetch, 1)

    result = perform(app_of(desk), Scene("desk", max_attempts=2), [Kill(1), Kill(1)]).result
    assert (result.status, result.failure and result.failure.reason) == ("DEAD_LETTERED", "RUNNER_LOST")


def test_a_signal_is_received_once_whatever_crashes() -> None:
    async def desk(run: Run) -> list[Any]:
        received = [await run.receive("a")]
        try:
            received.append(await run.receive("a", timeout=60))
        except NothingReceived:
            received.append("nothing")
        return received

    app, signals = app_of(desk), [Signal("once", "a")]
    assert perform(app, Scene("desk", signals=signals)).result.value == ["once", "nothing"]
    assert crash_everywhere(app, "desk", signals=signals)


def test_a_recorded_step_that_is_executed_again_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def desk(run: Run) -> None:
        await run.step(fetch, 1)
        await run.step(fetch, 2)

    monkeypatch.setattr(Ledger, "page", lambda _: LoadRunResponse())  # a platform that forgets
    with pytest.raises(AssertionError, match=r"after commit 1 .*: step fetch was executed again"):
        crash_everywhere(app_of(desk), "desk")
