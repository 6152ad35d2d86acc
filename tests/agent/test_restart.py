"""An agent that is called anew when input comes knows it, repeats nothing, and survives dying on the way."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from holdfast.agent import App, Run, step
from holdfast.agent.execution import Left
from holdfast.agent.replay import Verdict, replay
from holdfast.agent.testing import Lab, Script, Signal, approve, crash_everywhere, interrupt
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Memory

MINUTE = 60.0


def app_of(fn: Any, **options: Any) -> App:
    app = App("desk")
    app.agent("desk", on_input="restart", session=dict, **options)(fn)
    return app


async def study(topic: Any) -> str:
    return f"all about {topic}"


async def research(run: Run, asked: dict[str, str]) -> str:
    """Go by the last thing that was said."""
    topic = (asked["topic"], *run.inputs)[-1]
    run.say(f"Looking into {topic}.")
    found = await run.step(study, topic)
    run.send("log", {"topic": topic})
    await run.sleep(timedelta(minutes=10))
    run.session["topic"] = topic
    return found


def test_input_begins_the_agent_anew_and_what_was_sent_stays_sent() -> None:
    result = Lab(app_of(research)).run(
        "desk", {"topic": "oak"}, signals=[Signal("elm", at=MINUTE), Signal("ash", at=2 * MINUTE)], session={}
    )
    assert result.value == "all about ash"
    assert result.said == ["Looking into oak.", "Looking into elm.", "Looking into ash."]
    assert [effect.payload["topic"] for effect in result.effects] == ["oak", "elm", "ash"]
    assert result.session == {"topic": "ash"}
    assert result.step("study").output == "all about oak"
    assert result.step("!restart#2/study").output == "all about ash"


def test_without_input_there_is_one_pass_and_no_scope_of_its_own() -> None:
    result = Lab(app_of(research)).run("desk", {"topic": "oak"}, session={})
    assert result.value == "all about oak"
    assert result.step("study").output == "all about oak"


def test_several_at_once_begin_a_pass_each_and_only_the_last_one_runs() -> None:
    said = [Signal(name, at=MINUTE) for name in ("elm", "ash", "fir")]
    result = Lab(app_of(research)).run("desk", {"topic": "oak"}, signals=said, session={})
    assert result.value == "all about fir"
    assert result.said == ["Looking into oak.", "Looking into fir."]


def test_a_step_in_flight_is_cut_short_by_it() -> None:
    begun: list[str] = []

    @step
    async def ponder(topic: str) -> str:
        begun.append(topic)
        if topic == "oak":
            await forever()
        return topic

    async def desk(run: Run, asked: dict[str, str]) -> str:
        return await run.step(ponder, (asked["topic"], *run.inputs)[-1])

    result = Lab(app_of(desk)).run("desk", {"topic": "oak"}, signals=[Signal("elm", at=MINUTE)])
    assert result.value == "elm"
    assert begun == ["oak", "elm"]


async def forever() -> None:
    await asyncio.Event().wait()


def test_dying_at_any_commit_changes_nothing() -> None:
    said = [Signal("elm", at=MINUTE), Signal("ash", at=2 * MINUTE)]
    assert crash_everywhere(app_of(research), "desk", {"topic": "oak"}, signals=said, session={}) > 10


def test_what_can_be_undone_is_not_begun_anew() -> None:
    undone: list[str] = []

    async def release(thing: str) -> None:
        undone.append(thing)

    @step(undo=release)
    async def reserve(thing: str) -> str:
        return thing

    async def desk(run: Run) -> list[Any]:
        held = await run.step(reserve, "room")
        return [held, list(run.inputs), await run.receive(timeout=3600)]

    result = Lab(app_of(desk)).run("desk", {}, signals=[Signal("another", at=MINUTE)])
    assert result.value == ["room", [], "another"]
    assert undone == []


def test_a_gate_of_the_pass_before_opens_nothing_in_the_next() -> None:
    async def desk(run: Run) -> list[Any]:
        verdict = await run.approval("review", payload=list(run.inputs), approvers=["user:ann"], timeout=3600)
        return [verdict.reason, list(run.inputs)]

    result = Lab(app_of(desk)).run(
        "desk",
        {},
        signals=[Signal("more", at=MINUTE)],
        decisions={
            "review": [approve(reason="first", after=5 * MINUTE), approve(reason="second", after=2 * MINUTE)]
        },
    )
    assert result.value == ["second", ["more"]]


def test_an_interrupt_is_no_input() -> None:
    @step(interruptible=True)
    async def work() -> str:
        await forever()
        return ""

    async def desk(run: Run) -> list[Any]:
        try:
            await run.step(work)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is told
            return [type(error).__name__, list(run.inputs)]
        return []

    result = Lab(app_of(desk)).run("desk", {}, signals=[interrupt("stop", at=MINUTE)])
    assert result.value == ["Interrupted", []]


def test_words_of_a_model_that_is_cut_short_are_charged() -> None:
    async def desk(run: Run, asked: dict[str, str]) -> str:
        topic = (asked["topic"], *run.inputs)[-1]
        await run.sleep(MINUTE / 2)
        reply = await run.model(topic)
        await run.sleep(10 * MINUTE)
        return reply.content

    said = [Signal("elm", at=2 * MINUTE)]
    result = Lab(app_of(desk)).run("desk", {"topic": "oak"}, model=Script("Oak.", "Elm."), signals=said)
    assert result.value == "Elm."
    assert result.usage.tokens > 0


async def test_a_replay_asks_for_the_last_pass_alone_and_lacks_nothing() -> None:
    begun = asyncio.Event()

    @step
    async def look(topic: str) -> str:
        begun.set()
        if topic == "oak":
            await asyncio.Event().wait()
        return topic

    async def desk(run: Run, asked: dict[str, str]) -> str:
        await run.step(study, len(run.inputs))
        return await run.step(look, (asked["topic"], *run.inputs)[-1])

    app = app_of(desk)
    memory = Memory("desk", {"topic": "oak"})
    running = asyncio.create_task(memory.run(app))
    await begun.wait()
    memory.signal("elm")
    assert await running is Left.REQUEUED
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "elm"
    assert [commit.restarts for commit in memory.commits].count(True) == 1
    replayed = await replay(
        app, "desk", {"topic": "oak"}, memory.records, status=wire.SUCCEEDED, result="elm"
    )
    assert (replayed.verdict, replayed.leftover) == (Verdict.MATCHES, ())


def test_a_policy_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="enqueue, interrupt, reject, restart, not 'ignore'"):
        App("desk").agent("desk", on_input="ignore")  # type: ignore[arg-type]
