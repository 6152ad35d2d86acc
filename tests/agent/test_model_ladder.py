"""A ladder of models: whoever cannot answer is passed over, told, and remembered by its breaker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from examples.standins.chat_protocol import Answer
from examples.standins.fault import Fault
from examples.standins.model_server import ModelServer
from holdfast.agent import App, Dimension, Limits, Message, ModelEndpoint, Models, Run, StepFailed
from holdfast.agent.error import RunCancelled
from holdfast.agent.execution import Left
from holdfast.agent.model_breaker import ModelBreaker
from holdfast.agent.model_tokens import estimate_tokens
from holdfast.v1 import run_pb2
from tests.agent.memory import AMPLE, Memory

KEY = "sk-a-key"


@pytest.fixture
async def large() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as server:
        yield server


@pytest.fixture
async def small() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as server:
        yield server


@pytest.fixture
async def app(large: ModelServer, small: ModelServer) -> AsyncIterator[App]:
    ladder = Models(
        large=ModelEndpoint(large.url, KEY, "standin-large", timeout=5),
        small=ModelEndpoint(small.url, KEY, "standin-small", timeout=5),
    )
    app = App("asks", model=ladder)

    @app.agent("ask")
    async def ask(run: Run) -> str:
        reply = await run.model("what is the answer?")
        return f"{reply.model}: {reply.content}"

    yield app
    await app.close()


def server_requests(server: ModelServer) -> list[dict[str, Any]]:
    return [request["body"] for request in server.requests]


async def test_the_first_model_is_asked_while_it_answers(app: App, large: ModelServer) -> None:
    large.answers.append(Answer("forty-two"))
    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "standin-large: forty-two"
    assert memory.told("degraded") == []


async def test_who_cannot_answer_twice_is_passed_over_and_that_is_told(
    app: App, large: ModelServer, small: ModelServer
) -> None:
    large.faults.add(Fault("503", count=2))
    small.answers.append(Answer("forty-two"))
    memory = Memory("ask")
    assert await memory.crash(app, 1) is False or await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "standin-small: forty-two"
    assert (large.stats.requests, small.stats.requests) == (2, 1)
    (told,) = memory.told("degraded")
    assert told.rung == "model asks small"
    assert told.dimension == run_pb2.BUDGET_DIMENSION_UNSPECIFIED


async def test_a_replay_keeps_the_answer_of_whoever_gave_it(
    app: App, large: ModelServer, small: ModelServer
) -> None:
    large.faults.add(Fault("500", count=2))
    small.answers.append(Answer("small's"))

    async def nothing() -> None:
        """Take a step after the model's."""

    @app.agent("twice")
    async def twice(run: Run) -> str:
        reply = await run.model("what?")
        await run.step(nothing)
        return reply.content

    memory = Memory("twice")
    assert await memory.crash(app, 2)
    asked = (large.stats.requests, small.stats.requests)
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "small's"
    assert (large.stats.requests, small.stats.requests) == asked


async def test_retry_after_is_honoured_by_the_model_that_asked_for_it(app: App, large: ModelServer) -> None:
    large.faults.add(Fault("429", retry_after=0.4))
    large.answers.append(Answer("later"))
    memory = Memory("ask")
    began = asyncio.get_running_loop().time()
    assert await memory.run(app) is Left.ENDED
    assert asyncio.get_running_loop().time() - began >= 0.4
    assert memory.outcome.result.string_value == "standin-large: later"


async def test_a_refusal_is_no_reason_to_ask_another(
    app: App, large: ModelServer, small: ModelServer
) -> None:
    large.faults.add(Fault("400"))

    @app.agent("refused")
    async def refused(run: Run) -> str:
        try:
            await run.model("what?")
        except StepFailed as failed:
            return failed.failure.reason
        return "answered"

    memory = Memory("refused")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "ModelRefused"
    assert small.stats.requests == 0


async def test_an_open_breaker_costs_no_try(app: App, large: ModelServer, small: ModelServer) -> None:
    large.faults.add(Fault("503", count=100))
    memory = Memory("ask")
    for _ in range(5):
        small.answers.append(Answer("forty-two"))
        memory = Memory("ask")
        assert await memory.run(app) is Left.ENDED
    assert large.stats.requests == 5, "five failures in a row and it is left alone"
    assert memory.told("step_failed") == []
    assert small.stats.requests == 5


async def test_a_model_can_be_named(app: App, large: ModelServer, small: ModelServer) -> None:
    small.answers.append(Answer("cheap"))

    @app.agent("named")
    async def named(run: Run) -> str:
        return (await run.model("what?", model="small")).content

    memory = Memory("named")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "cheap"
    assert large.stats.requests == 0


async def test_what_is_written_fits_into_the_models_window(large: ModelServer) -> None:
    app = App("asks", model=ModelEndpoint(large.url, KEY, "standin-large", window=50))
    large.answers.append(Answer("word " * 100))

    @app.agent("ask")
    async def ask(run: Run) -> int:
        return (await run.model("what is the answer?", max_tokens=1000)).usage.total_tokens

    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    (asked,) = server_requests(large)
    assert 0 < asked["max_tokens"] < 50 - 10, "what is read takes its share"
    await app.close()


async def test_a_cancelled_call_leaves_the_breaker_as_it_was(app: App, large: ModelServer) -> None:
    for _ in range(6):
        large.faults.add(Fault("hang"))
        memory = Memory("ask")
        lease = memory.lease(app)
        running = asyncio.ensure_future(lease.run())
        before = large.stats.requests
        async with asyncio.timeout(5):
            while large.stats.requests == before:  # noqa: ASYNC110 - what another server counts
                await asyncio.sleep(0.005)
        lease.stop(RunCancelled())
        assert await running is Left.ENDED
    large.answers.append(Answer("still here"))
    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "standin-large: still here"


async def test_a_budget_of_tokens_ends_the_run_and_not_the_ladder(app: App, large: ModelServer) -> None:
    large.answers.append(Answer("forty-two"))
    memory = Memory("ask", limits=Limits(AMPLE.deadline, AMPLE.steps, AMPLE.tools, 5, AMPLE.context))
    assert await memory.run(app) is Left.ENDED
    assert Dimension(memory.outcome.exhausted) is Dimension.TOKENS
    assert large.stats.requests == 0


def test_a_breaker_opens_probes_once_and_closes() -> None:
    now = 0.0
    breaker = ModelBreaker(failures=2, reset_after=10, clock=lambda: now)
    for _ in range(2):
        breaker.failed(breaker.admit())
    assert not breaker.admit()
    assert breaker.wait == 10
    now = 10.0
    probe = breaker.admit()
    assert probe
    assert not breaker.admit(), "one probe at a time"
    breaker.unsaid(probe)
    probe = breaker.admit()
    assert probe, "a cancelled probe says nothing"
    breaker.failed(probe, retry_after=30)
    assert breaker.wait == 30
    now = 40.0
    breaker.answered(breaker.admit())
    assert breaker.admit()
    assert breaker.admit()


@pytest.mark.parametrize("end", [ModelBreaker.answered, ModelBreaker.failed, ModelBreaker.unsaid])
def test_a_call_from_before_the_breaker_opened_decides_nothing(
    end: Callable[[ModelBreaker, int], None],
) -> None:
    now = 0.0
    breaker = ModelBreaker(failures=2, reset_after=10, clock=lambda: now)
    late, later = breaker.admit(), breaker.admit()
    for _ in range(2):
        breaker.failed(breaker.admit())
    end(breaker, late)
    assert breaker.wait == 10, "it stays open as long as it was"
    assert not breaker.admit()
    now = 10.0
    assert breaker.admit()
    end(breaker, later)
    assert not breaker.admit(), "the probe is still under way"


def test_a_ladder_without_models_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        Models()


async def test_a_model_that_is_silent_too_long_is_passed_over(large: ModelServer, small: ModelServer) -> None:
    ladder = Models(
        large=ModelEndpoint(large.url, KEY, "standin-large", timeout=0.1),
        small=ModelEndpoint(small.url, KEY, "standin-small", timeout=5),
    )
    app = App("asks", model=ladder)

    @app.agent("ask")
    async def ask(run: Run) -> str:
        return (await run.model("what?")).model

    large.faults.add(Fault("slow_start", count=2, delay=5))
    small.answers.append(Answer("in time"))
    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "standin-small"
    assert large.stats.tokens_sent == 0, "who was silent stops when it is left"
    await app.close()


async def test_an_estimator_of_the_apps_own_counts_for_the_environments_models(
    monkeypatch: pytest.MonkeyPatch, large: ModelServer
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", large.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    app = App("asks", estimate=lambda _messages, _tools: 10**6)

    @app.agent("ask")
    async def ask(run: Run) -> None:
        await run.model("what?")

    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    assert Dimension(memory.outcome.exhausted) is Dimension.CONTEXT
    assert large.stats.requests == 0
    await app.close()


async def test_the_environments_ladder_estimates_as_its_models_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    ladder = Models.from_environment()
    assert ladder.estimate_tokens([Message("user", "hello")]) == estimate_tokens([Message("user", "hello")])
    await ladder.close()


async def test_the_environment_may_list_several_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_MODEL", "gpt-large, gpt-small")
    ladder = App("asks").models()
    assert ladder.names == ("gpt-large", "gpt-small")
    assert ladder.estimate_tokens([Message("user", "hello")]) > 0
    await ladder.close()
