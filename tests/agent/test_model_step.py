"""A model call as a step, against the stand-in server over real HTTP."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from examples.standins.chat_protocol import Answer
from examples.standins.fault import Fault
from examples.standins.model_server import ModelServer
from holdfast.agent import (
    App,
    Dimension,
    Interrupted,
    Limits,
    Message,
    ModelEndpoint,
    ModelReply,
    Policy,
    Run,
    StepFailed,
    tool_arguments,
)
from holdfast.agent.error import RunCancelled
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Memory
from tests.kit.until import until

KEY = "sk-a-key"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY, token_delay_ms=0.5) as server:
        yield server


@pytest.fixture
async def app(server: ModelServer) -> AsyncIterator[App]:
    app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large", timeout=5))
    yield app
    await app.close()


async def add(numbers: list[int]) -> int:
    """Add numbers."""
    return sum(numbers)


async def test_what_a_model_says_is_told_as_it_comes_and_charged_once(app: App, server: ModelServer) -> None:
    server.answers.append(Answer("The answer is forty-two, as everyone knows."))

    async def nothing() -> None:
        pass

    @app.agent("ask")
    async def ask(run: Run) -> str:
        reply = await run.model("what is the answer?")
        assert isinstance(reply, ModelReply)
        await run.step(nothing)
        return reply.content

    memory = Memory("ask")
    assert await memory.crash(app, 1)
    assert await memory.run(app) is Left.ENDED
    assert server.stats.requests == 1
    assert memory.outcome.result.string_value == "The answer is forty-two, as everyone knows."
    told = memory.told("token")
    assert "".join(token.text for token in told) == memory.outcome.result.string_value
    (record,) = [record for record in memory.records if record.kind == wire.MODEL]
    assert record.usage.tokens > 0
    assert 0 < record.usage.context < record.usage.tokens
    assert memory.spent.tokens == record.usage.tokens


async def test_a_model_calls_tools_that_are_counted_and_told(app: App, server: ModelServer) -> None:
    @app.agent("tools")
    async def ask(run: Run) -> str:
        messages = [Message("user", "add 1 and 2")]
        reply = await run.model(messages, tools=[add])
        messages.append(reply.message())
        for call in reply.tool_calls:
            result = await run.tool(add, **tool_arguments(add, call.arguments))
            messages.append(Message("tool", str(result), tool_call_id=call.id))
        return (await run.model(messages, tools=[add])).content

    server.answers.append(Answer("", tool_calls=(("add", {"numbers": [1, 2]}),)))
    server.answers.append(Answer("three"))
    memory = Memory("tools")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "three"
    assert memory.keys == ["model", "add", "model#2"]
    assert memory.spent.tools == 1


async def test_no_call_starts_that_would_read_more_than_allowed(app: App, server: ModelServer) -> None:
    @app.agent("long")
    async def ask(run: Run) -> None:
        await run.model("word " * 1000)

    limits = Limits(deadline=60, steps=10, tools=10, tokens=10**6, context=500)
    memory = Memory("long", limits=limits)
    assert await memory.run(app) is Left.ENDED
    assert Dimension(int(memory.outcome.exhausted)) is Dimension.CONTEXT
    assert server.stats.requests == 0


async def test_tokens_end_the_run_and_the_last_reply_is_cut_short(app: App, server: ModelServer) -> None:
    for _ in range(5):
        server.answers.append(Answer("word " * 100))

    @app.agent("chatty", on_exhausted=lambda run, _: run.budget.spent.tokens)
    async def ask(run: Run) -> None:
        while True:
            await run.model("say something long")

    limits = Limits(deadline=60, steps=100, tools=10, tokens=300, context=10**5)
    memory = Memory("chatty", limits=limits)
    assert await memory.run(app) is Left.ENDED
    assert Dimension(int(memory.outcome.exhausted)) is Dimension.TOKENS
    assert 1 <= server.stats.requests <= 3
    assert memory.spent.tokens <= 330


async def test_an_unavailable_model_is_asked_again_a_refusing_one_not(app: App, server: ModelServer) -> None:
    server.faults.add(Fault("503", count=2))

    @app.agent("flaky")
    async def ask(run: Run) -> str:
        return (await run.model("hello")).content

    memory = Memory("flaky")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert memory.records[0].attempts == 3
    assert [failed.failure.reason for failed in memory.told("step_failed")] == ["ModelUnavailable"] * 2

    server.faults.add(Fault("400"))

    @app.agent("refused")
    async def refused(run: Run) -> str:
        try:
            await run.model("hello")
        except StepFailed as failed:
            return failed.reason
        return "answered"

    other = Memory("refused")
    assert await other.run(app) is Left.ENDED
    assert other.outcome.result.string_value == "ModelRefused"
    assert other.records[0].failure.attempts == 1


async def test_cancelling_the_run_stops_the_model(app: App, server: ModelServer) -> None:
    server.answers.append(Answer("word " * 10_000))
    speaking = asyncio.Event()

    @app.agent("endless")
    async def ask(run: Run) -> None:
        await run.model("go on")

    memory = Memory("endless")
    execution = memory.lease(app)
    happened = memory.happened

    def noted(event: wire.Event) -> None:
        happened(event)
        if event.HasField("token"):
            speaking.set()

    memory.happened = noted  # type: ignore[method-assign]
    execution = memory.lease(app)
    ended = asyncio.create_task(execution.run())
    await asyncio.wait_for(speaking.wait(), 5)
    execution.stop(RunCancelled())
    async with asyncio.timeout(1):
        assert await ended is Left.ENDED
    async with asyncio.timeout(5):
        while server.stats.open_streams:  # noqa: ASYNC110 -- the counters of another party send no event
            await asyncio.sleep(0.002)
    assert memory.outcome.status == wire.CANCELLED


async def test_a_model_call_that_is_interrupted_is_closed_and_paid_for(app: App, server: ModelServer) -> None:
    server.answers.append(Answer(" ".join(["word"] * 5000)))
    server.answers.append(Answer("Shorter."))

    @app.agent("ask")
    async def ask(run: Run) -> str:
        policy = Policy(attempts=5, repeatable=True, interruptible=True)
        try:
            return (await run.model("tell me all", policy=policy)).content
        except Interrupted as interrupted:
            return (await run.model(str(interrupted.payload), policy=policy)).content

    memory = Memory("ask")
    running = asyncio.create_task(memory.run(app))
    await until(lambda: any(event.WhichOneof("event") == "token" for event in memory.live))
    memory.signal("be brief", "interrupt", urgent=True)
    assert await running is Left.ENDED
    assert memory.outcome.result.string_value == "Shorter."
    first, second = memory.records
    told = "".join(token.text for token in memory.told("token"))
    assert first.failure.reason == "INTERRUPTED"
    assert first.usage.context < first.usage.tokens < 5000
    assert told.startswith("word")
    assert memory.spent.tokens == first.usage.tokens + second.usage.tokens
