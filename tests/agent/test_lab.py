"""The lab runs an agent as the platform would, in no time: its clock jumps, and its world is scripted."""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from holdfast.agent import App, Dimension, Interrupted, Message, Permanent, Run, step
from holdfast.agent.testing import (
    AMPLE,
    Kill,
    Lab,
    Result,
    Script,
    Signal,
    approve,
    broken,
    crash_everywhere,
    deny,
    interrupt,
    refused,
    reply,
    tool_call,
    unavailable,
)
from holdfast.agent.testing.clock import QUIET, VirtualLoop

DAY = 24 * 3600.0


def lab(fn: Any, **options: Any) -> Lab:
    app = App("desk")
    app.agent("desk", **options)(fn)
    return Lab(app)


async def double(number: int) -> int:
    return 2 * number


def test_a_result_tells_all_that_became_of_a_run() -> None:
    async def desk(run: Run, payload: dict[str, int]) -> int:
        run.say("Reading.")
        number = await run.step(double, payload["number"])
        run.send("orders", {"number": number}, ordering_key="a")
        run.session["last"] = number
        return number

    result = lab(desk).run("desk", {"number": 4}, session={})
    assert (result.status, result.value, result.failure) == ("SUCCEEDED", 8, None)
    assert result.succeeded
    assert result.said == ["Reading."]
    assert [(each.destination, each.payload, each.ordering_key) for each in result.effects] == [
        ("orders", {"number": 8}, "a")
    ]
    assert result.step("double").output == 8
    assert result.session == {"last": 8}
    assert (result.usage.steps, result.leases, result.elapsed) == (1, 1, 0.0)
    assert result.events[-1].HasField("ended")
    with pytest.raises(KeyError, match="There is no step 'triple' among double"):
        result.step("triple")


def test_a_sleep_of_days_parks_and_takes_no_time() -> None:
    async def desk(run: Run) -> str:
        await run.sleep(timedelta(days=20))
        return "awake"

    began = time.monotonic()
    result = lab(desk).run("desk")
    assert result.value == "awake"
    assert result.elapsed == pytest.approx(20 * DAY)
    assert result.leases == 2
    assert time.monotonic() - began < 5


def test_retries_and_timeouts_of_steps_pass_in_the_lab_s_time() -> None:
    tries: list[int] = []

    @step(timeout=3600, attempts=3)
    async def slow() -> str:
        tries.append(1)
        await asyncio.sleep(7200 if len(tries) < 3 else 1800)
        return "done"

    async def desk(run: Run) -> str:
        return await run.step(slow)

    result = lab(desk).run("desk")
    assert result.value == "done"
    assert len(tries) == 3
    assert 9000 <= result.elapsed < 9100


def test_a_deadline_ends_a_run_whether_it_works_or_rests() -> None:
    async def works(run: Run) -> None:  # noqa: ARG001
        await asyncio.sleep(DAY)

    async def rests(run: Run) -> None:
        await run.receive("never")

    for agent in (works, rests):
        result = lab(agent).run("desk", limits=AMPLE_FOR_AN_HOUR)
        assert (result.status, result.exhausted) == ("PARTIAL", Dimension.DEADLINE)
        assert result.elapsed == pytest.approx(3600)


AMPLE_FOR_AN_HOUR = type(AMPLE)(3600.0, AMPLE.steps, AMPLE.tools, AMPLE.tokens, AMPLE.context)


def test_a_deadline_a_year_away_is_reached() -> None:
    async def desk(run: Run) -> None:  # noqa: ARG001
        await asyncio.Event().wait()

    result = lab(desk).run("desk")
    assert result.status == "PARTIAL"
    assert result.elapsed == pytest.approx(AMPLE.deadline)


def test_a_budget_is_kept_over_all_leases() -> None:
    async def desk(run: Run) -> None:
        for number in range(5):
            await run.step(double, number)

    limits = type(AMPLE)(3600.0, 3, 1, 1000, 1000)
    result = lab(desk).run("desk", limits=limits, kills=[Kill(2, landed=True)])
    assert (result.status, result.exhausted, result.usage.steps) == ("PARTIAL", Dimension.STEPS, 3)
    assert result.leases == 2


def test_signals_come_at_their_time_and_answers_when_they_are_waited_for() -> None:
    async def desk(run: Run) -> list[Any]:
        first = await run.receive("review")
        second = await run.receive("review")
        return [first, second, await run.receive()]

    result = lab(desk).run(
        "desk", signals=[Signal({"text": "late"}, at=3 * DAY)], answers={"review": ["yes", "no"]}
    )
    assert result.value == ["yes", "no", {"text": "late"}]
    assert result.elapsed == pytest.approx(3 * DAY)


def test_an_interruption_ends_a_step_at_its_time() -> None:
    @step(interruptible=True)
    async def think() -> None:
        await asyncio.sleep(3600)

    async def desk(run: Run) -> Any:
        try:
            await run.step(think)
        except Interrupted as interruption:
            return interruption.payload

    result = lab(desk).run("desk", signals=[interrupt("stop", at=60)])
    assert result.value == "stop"
    assert result.elapsed == 60
    assert result.step("think").interrupted


def test_a_run_is_cancelled_while_it_works_and_while_it_rests() -> None:
    async def works(run: Run) -> None:  # noqa: ARG001
        await asyncio.sleep(DAY)

    async def rests(run: Run) -> None:
        await run.sleep(DAY)

    for agent in (works, rests):
        result = lab(agent).run("desk", cancel_at=60)
        assert result.status == "CANCELLED"
        assert result.elapsed == 60


def test_failures_take_their_ways() -> None:
    async def for_good(run: Run) -> None:  # noqa: ARG001
        raise Permanent("no such order")

    async def again_and_again(run: Run) -> None:  # noqa: ARG001
        raise OSError("unreachable")

    result = lab(for_good).run("desk")
    assert (result.status, result.failure and result.failure.message) == ("FAILED", "no such order")
    result = lab(again_and_again).run("desk", max_attempts=3)
    assert (result.status, result.leases) == ("DEAD_LETTERED", 3)


def talk(run: Run) -> Any:
    return run.model("What now?", name="talk")


def test_a_script_answers_in_order_with_failures_that_are_tried_again() -> None:
    async def desk(run: Run) -> list[str]:
        return [(await talk(run)).content, (await talk(run)).content]

    script = Script(
        unavailable(retry_after=600), broken("I th", tokens=(3, 1)), "I think.", reply("So be it.")
    )
    result = lab(desk).run("desk", model=script)
    assert result.value == ["I think.", "So be it."]
    assert result.elapsed >= 600
    assert result.step("talk").attempts == 3
    assert result.usage.tokens > 4


def test_a_refusal_fails_the_step_for_good() -> None:
    async def desk(run: Run) -> str:
        return str((await talk(run)).content)

    result = lab(desk).run("desk", model=Script(refused()))
    assert (result.status, result.step("talk").attempts if result.steps else 1) == ("FAILED", 1)


def test_a_script_by_function_answers_what_is_asked_and_calls_tools() -> None:
    def answers(messages: Sequence[Message]) -> Any:
        if messages[-1].role == "tool":
            return f"It is {messages[-1].content}."
        return tool_call("double", number=21)

    async def desk(run: Run) -> str:
        return (await run.converse_with_tools("What is twice 21?", [double])).content

    result = lab(desk).run("desk", model=Script(answers))
    assert result.value == "It is 42."
    assert result.usage.tools == 1


def test_models_are_scripted_by_name() -> None:
    async def desk(run: Run) -> list[str]:
        large = await run.model("a")
        small = await run.model("b", model="small")
        return [large.content, small.content]

    result = lab(desk).run("desk", model={"large": Script("L"), "small": Script("S")})
    assert result.value == ["L", "S"]


def test_a_model_that_is_down_for_long_is_waited_for_in_the_lab_s_time() -> None:
    async def desk(run: Run) -> str:
        return str((await talk(run)).content)

    began = time.monotonic()
    result = lab(desk).run("desk", model=Script(*[unavailable()] * 12, "Back."))
    assert result.value == "Back."
    assert time.monotonic() - began < 5, "an open breaker goes by the lab's clock, too"


def test_a_script_that_is_over_too_soon_says_so() -> None:
    async def desk(run: Run) -> None:
        await talk(run)

    with pytest.raises(AssertionError, match="script of scripted is over, and it was asked 'What now"):
        lab(desk).run("desk", model=Script())


def test_a_script_is_answers_or_a_function() -> None:
    with pytest.raises(ValueError, match="not both"):
        Script("a", lambda _: "b")


def test_an_intent_that_nobody_serves_is_refused() -> None:
    async def desk(run: Run) -> None: ...

    with pytest.raises(ValueError, match="has no agent for dusk; it serves desk"):
        lab(desk).run("dusk")


async def test_async_tests_await_a_run_and_are_told_to() -> None:
    async def desk(run: Run) -> str:
        await run.sleep(DAY)
        return "awake"

    result: Result = await lab(desk).run_async("desk")
    assert result.value == "awake"
    with pytest.raises(RuntimeError, match="await run_async"):
        lab(desk).run("desk")


def test_a_branch_that_parks_beside_another_goes_on_with_it() -> None:
    async def desk(run: Run) -> list[str]:
        async def wait(key: str) -> str:
            answer: str = await run.receive(key)
            await run.sleep(DAY)
            return answer

        return await run.map(wait, ["a", "b"])

    result = lab(desk).run("desk", signals=[Signal("A", "a", at=10), Signal("B", "b", at=DAY)])
    assert result.value == ["A", "B"]
    assert result.elapsed == pytest.approx(2 * DAY)


def test_work_in_threads_is_waited_for_and_not_jumped_over() -> None:
    async def desk(run: Run) -> str:  # noqa: ARG001
        async with asyncio.timeout(60):
            return await asyncio.to_thread(_work)

    result = lab(desk).run("desk")
    assert result.value == "worked"
    assert result.elapsed < 60


def _work() -> str:
    deadline = time.monotonic() + 0.05
    while time.monotonic() < deadline:
        pass
    return "worked"


def test_a_connection_that_answers_is_waited_for_and_one_that_idles_is_not_for_long() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        await reader.read()
        writer.close()

    async def both() -> tuple[bytes, float]:
        server = await asyncio.start_server(answer, "127.0.0.1")
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            async with asyncio.timeout(3600):
                line = await reader.readline()
            await asyncio.sleep(3600)  # the connection idles
            writer.close()
            await writer.wait_closed()
        return line, asyncio.get_running_loop().time()

    began = time.monotonic()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        line, passed = runner.run(both())
    assert line == b"hello\n"
    assert 3600 <= passed < 3700
    assert time.monotonic() - began < QUIET + 5


async def gated(run: Run) -> list[Any]:
    decisions = [
        await run.approval(name, payload={"sum": 4}, approvers=["user:ann"], timeout=DAY, default=default)
        for name, default in (("first", ""), ("second", ""), ("third", ""), ("fourth", "deny"))
    ]
    return [[each.status, list(each.by), each.payload] for each in decisions]


def test_gates_are_decided_as_the_scene_has_it_or_time_out() -> None:
    decisions = {
        "first": approve(by="ann", payload={"sum": 3}, after=60),
        "second": deny(by="ben"),
        "third": approve(after=2 * DAY),
    }
    result = lab(gated).run("desk", decisions=decisions)
    assert result.value == [
        ["APPROVED", ["ann"], {"sum": 3}],
        ["DENIED", ["ben"], {"sum": 4}],
        ["TIMED_OUT", [], {"sum": 4}],
        ["DENIED", [], {"sum": 4}],
    ]
    assert result.elapsed == pytest.approx(2 * DAY + 60)


def test_a_gate_survives_every_crash() -> None:
    app = App("desk")
    app.agent("desk")(gated)
    assert crash_everywhere(app, "desk", decisions={"first": approve(after=60)})
