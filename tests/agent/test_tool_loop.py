"""A model that calls tools: every call a step, nonsense answered in words, loops that never stop stopped."""

from collections.abc import AsyncIterator

import pytest

from examples.standins.chat_protocol import Answer, ChatRequest
from examples.standins.model_server import ModelServer
from holdfast.agent import App, Dimension, Limits, ModelEndpoint, Permanent, Run
from holdfast.agent.execution import Left
from tests.agent.memory import AMPLE, Counter, Memory

KEY = "sk-a-key"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as server:
        yield server


calls = Counter()


async def add(numbers: list[int]) -> int:
    """Add numbers."""
    calls.calls.append(numbers)
    return sum(numbers)


async def broken() -> str:
    """Fail for good."""
    raise Permanent("nobody home")


@pytest.fixture
async def app(server: ModelServer) -> AsyncIterator[App]:
    app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large", timeout=5))
    calls.calls.clear()

    @app.agent("ask")
    async def ask(run: Run) -> dict[str, object]:
        talk = await run.converse_with_tools("add 1 and 2", [add, broken])
        return {
            "said": talk.content,
            "rounds": talk.rounds,
            "finished": talk.finished,
            "heard": [message.content for message in talk.messages if message.role == "tool"],
        }

    @app.agent("short")
    async def short(run: Run) -> bool:
        return (await run.converse_with_tools("add 1 and 2", [add], max_rounds=3)).finished

    yield app
    await app.close()


def sums(*pairs: list[int]) -> Answer:
    return Answer(tool_calls=tuple(("add", {"numbers": numbers}) for numbers in pairs))


def result(memory: Memory) -> dict[str, object]:
    from google.protobuf.json_format import MessageToDict

    return dict(MessageToDict(memory.outcome.result))


async def test_tools_are_called_until_the_answer_is_there(app: App, server: ModelServer) -> None:
    server.answers.extend([sums([1, 2], [3, 4]), sums([3, 7]), Answer("ten")])
    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    assert result(memory) == {"said": "ten", "rounds": 3.0, "finished": True, "heard": ["3", "7", "10"]}
    assert memory.spent.tools == 3
    assert memory.keys == ["model", "map.1/add", "map.2/add", "model#2", "map#2.1/add", "model#3"]


async def test_a_crash_at_any_commit_repeats_no_finished_call(app: App, server: ModelServer) -> None:
    script: list[Answer] = [sums([1, 2], [3, 4]), sums([3, 7]), Answer("ten")]

    def scripted(chat: ChatRequest) -> Answer:
        """Answer by what was said so far: a model that is asked again answers again."""
        said = [message for message in chat.messages if message["role"] == "assistant"]
        return script[len(said)]

    server.script = scripted
    memory = Memory("ask")
    while await memory.crash(app, 1):
        pass
    assert result(memory)["said"] == "ten"
    assert len(memory.keys) == len(set(memory.keys)) == 6
    assert memory.spent.tools == 3


async def test_nonsense_is_answered_in_words_and_is_no_tool_call(app: App, server: ModelServer) -> None:
    server.answers.extend(
        [
            Answer(tool_calls=(("add", {"numbers": "three"}), ("fly", {}), ("broken", {}))),
            Answer("I see"),
        ]
    )
    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    heard = result(memory)["heard"]
    assert isinstance(heard, list)
    assert "not possible" in heard[0]
    assert "numbers" in heard[0]
    assert heard[1] == "There is no tool fly; there are: add, broken."
    assert heard[2] == "The tool failed: nobody home"
    assert calls.calls == []
    assert memory.spent.tools == 1, "the one that was called, and failed"


async def test_rounds_that_are_used_up_are_said_to_be(app: App, server: ModelServer) -> None:
    server.answers.extend([sums([1])] * 9)
    memory = Memory("short")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.bool_value is False
    assert server.stats.requests == 3


@pytest.mark.parametrize(
    ("limits", "dimension"),
    [
        (Limits(AMPLE.deadline, 7, AMPLE.tools, AMPLE.tokens, AMPLE.context), Dimension.STEPS),
        (Limits(AMPLE.deadline, AMPLE.steps, 4, AMPLE.tokens, AMPLE.context), Dimension.TOOLS),
        (Limits(AMPLE.deadline, AMPLE.steps, AMPLE.tools, 400, AMPLE.context), Dimension.TOKENS),
        (Limits(AMPLE.deadline, AMPLE.steps, AMPLE.tools, AMPLE.tokens, 120), Dimension.CONTEXT),
    ],
)
async def test_a_loop_that_never_ends_is_ended_by_the_budget(
    app: App, server: ModelServer, limits: Limits, dimension: Dimension
) -> None:
    server.answers.extend([sums([1, 1])] * 200)
    memory = Memory("ask", limits=limits)
    assert await memory.run(app) is Left.ENDED
    assert Dimension(memory.outcome.exhausted) is dimension


async def test_a_loop_that_never_ends_is_ended_by_its_deadline(app: App, server: ModelServer) -> None:
    server.answers.extend([sums([1, 1])] * 20_000)
    memory = Memory("ask", limits=Limits(0.5, 100_000, 100_000, 10**9, 10**7))
    memory.remaining = 0.5
    assert await memory.run(app) is Left.ENDED
    assert Dimension(memory.outcome.exhausted) is Dimension.DEADLINE
