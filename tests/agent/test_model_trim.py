"""What there is no room for is left out, oldest first, and what belongs together stays together."""

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.standins.chat_protocol import Answer, ChatRequest
from examples.standins.fault import Fault
from examples.standins.model_server import ModelServer
from holdfast.agent import App, Dimension, Limits, Message, ModelEndpoint, Models, Run, Rung
from holdfast.agent.execution import Left
from holdfast.agent.model_trim import Trim, oldest_first
from holdfast.agent.model_value import ToolCall
from holdfast.agent.wire import draft as wire
from tests.agent.memory import AMPLE, Memory

KEY = "sk-a-key"


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages = [Message("system", "be kind")] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(0, 6))):
        messages.append(Message("user", f"question {turn}"))
        for at in range(draw(st.integers(0, 2))):
            wanted = tuple(ToolCall(f"{turn}-{at}-{n}", "look", "{}") for n in range(draw(st.integers(1, 3))))
            messages.append(Message("assistant", "", wanted))
            messages += [Message("tool", "found", tool_call_id=call.id) for call in wanted]
        if draw(st.booleans()):
            messages.append(Message("assistant", f"answer {turn}"))
        if draw(st.integers(0, 5)) == 0:
            messages.append(Message("system", f"note {turn}"))
    return messages


@given(conversations(), st.integers(0, 40))
def test_trimming_keeps_what_must_stay_and_splits_nothing(messages: list[Message], room: int) -> None:
    def fits(shown: Sequence[Message]) -> bool:
        return len(shown) <= room

    shown, left_out = oldest_first(messages, fits)
    assert sorted(map(id, [*shown, *left_out])) == sorted(map(id, messages))
    places = {id(message): at for at, message in enumerate(messages)}
    assert [places[id(each)] for each in shown] == sorted(places[id(each)] for each in shown)
    assert all(message.role != "system" for message in left_out)
    asked = [at for at, message in enumerate(messages) if message.role == "user"]
    if asked:
        assert all(places[id(message)] < asked[-1] for message in left_out)
    called = {call.id for message in shown for call in message.tool_calls}
    assert called == {message.tool_call_id for message in shown if message.role == "tool"}
    if left_out and not fits(shown):
        rest = [m for m in messages[: asked[-1] if asked else 0] if m.role != "system"]
        assert all(any(m is gone for gone in left_out) for m in rest), "all that may go has gone"
    if fits(messages):
        assert left_out == []


LONG = [
    Message("system", "You are brief."),
    *(Message(role, f"{role} {n} " + "word " * 40) for n in range(5) for role in ("user", "assistant")),
    Message("user", "And now?"),
]


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as server:
        yield server


def asks(server: ModelServer, trim: Trim) -> App:
    app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large"))

    @app.agent("ask", trim=trim)
    async def ask(run: Run) -> str:
        return (await run.model(LONG)).content

    return app


def narrow() -> Memory:
    return Memory("ask", limits=Limits(AMPLE.deadline, AMPLE.steps, AMPLE.tools, AMPLE.tokens, 150))


async def test_the_oldest_is_left_out_and_the_record_does_not_depend_on_it(server: ModelServer) -> None:
    server.answers.append(Answer("fine"))
    app = asks(server, "oldest_first")
    memory = narrow()
    assert await memory.run(app) is Left.ENDED
    shown = [message["content"].split()[:2] for message in server.requests[-1]["body"]["messages"]]
    assert shown[0] == ["You", "are"]
    assert shown[-1] == ["And", "now?"]
    assert len(shown) < len(LONG)
    (record,) = memory.records
    assert record.input.count(b"word") == 400, "what was asked, not what was shown"
    await app.close()


async def test_what_is_left_out_may_be_summarised_by_a_step_of_its_own(server: ModelServer) -> None:
    server.answers.extend([Answer("they said words"), Answer("fine")])
    app = asks(server, "summarise")
    memory = narrow()
    assert await memory.run(app) is Left.ENDED
    assert memory.keys == ["model.summary.8", "model"]
    shown = [message["content"] for message in server.requests[-1]["body"]["messages"]]
    assert shown[1] == "Earlier in this conversation: they said words"
    assert memory.outcome.result.string_value == "fine"
    await app.close()


async def test_a_crash_after_the_summary_lets_a_rung_trim_otherwise(server: ModelServer) -> None:
    def answer(chat: ChatRequest) -> Answer:
        return Answer("they said words" if len(chat.messages) == 2 else "fine")

    server.script = answer
    app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large"))

    @app.agent("ask", trim="summarise", degrade=[Rung(at=0.3, context=0.7)])
    async def ask(run: Run) -> str:
        return (await run.model(LONG)).content

    memory = Memory("ask", limits=Limits(AMPLE.deadline, 3, AMPLE.tools, AMPLE.tokens, 250))
    memory.remaining = AMPLE.deadline
    assert await memory.crash(app, 1)
    assert memory.keys == ["model.summary.6"]
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED, "it does not drift"
    assert len(memory.keys) == 3, "more was left out than the first summary says: it is summarised anew"
    await app.close()


async def test_what_was_left_out_is_told_once(server: ModelServer) -> None:
    server.faults.add(Fault("503"))
    server.answers.append(Answer("fine"))
    app = asks(server, "oldest_first")
    memory = narrow()
    assert await memory.run(app) is Left.ENDED
    (told,) = memory.told("degraded")
    assert told.rung == "model leaves out 8 of 12 messages"
    assert (told.dimension, told.limit) == (Dimension.CONTEXT, 150)
    assert told.used > 150
    await app.close()


async def test_a_models_window_leaves_less_room_than_the_budget(server: ModelServer) -> None:
    server.answers.append(Answer("fine"))
    app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large", window=300))

    @app.agent("ask", trim="oldest_first")
    async def ask(run: Run) -> str:
        return (await run.model(LONG, max_tokens=100)).content

    memory = Memory("ask")
    assert await memory.run(app) is Left.ENDED
    body = server.requests[-1]["body"]
    assert len(body["messages"]) < len(LONG)
    assert body["max_tokens"] == 100, "what is read leaves room for what was wished"
    await app.close()


async def test_the_next_model_is_shown_what_it_has_room_for(server: ModelServer) -> None:
    async with ModelServer(api_key=KEY) as other:
        server.faults.add(Fault("503", count=2))
        other.answers.append(Answer("fine"))
        ladder = Models(
            large=ModelEndpoint(server.url, KEY, "standin-large"),
            small=ModelEndpoint(other.url, KEY, "standin-small", window=300),
        )
        app = App("asks", model=ladder)

        @app.agent("ask", trim="oldest_first")
        async def ask(run: Run) -> str:
            return (await run.model(LONG)).content

        memory = Memory("ask")
        assert await memory.run(app) is Left.ENDED
        assert len(server.requests[-1]["body"]["messages"]) == len(LONG)
        assert len(other.requests[-1]["body"]["messages"]) < len(LONG)
        assert memory.told("degraded")[-1].rung.startswith("model leaves out")
        await app.close()


async def test_without_a_policy_the_run_ends_at_its_limit(server: ModelServer) -> None:
    app = asks(server, "error")
    memory = narrow()
    assert await memory.run(app) is Left.ENDED
    assert Dimension(memory.outcome.exhausted) is Dimension.CONTEXT
    assert server.stats.requests == 0
    await app.close()


def test_a_policy_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="oldest_first"):
        App("asks").agent("ask", trim="newest")  # type: ignore[arg-type]
