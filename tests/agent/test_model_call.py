"""The model client against the stand-in server, over real HTTP on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from examples.standins.chat_protocol import Answer
from examples.standins.fault import Fault
from examples.standins.model_server import ModelServer
from holdfast.agent.model import (
    Message,
    ModelEndpoint,
    ModelRefused,
    ModelReply,
    ModelSettings,
    ModelUnavailable,
    ToolCall,
    ToolSpec,
    estimate_tokens,
)

KEY = "sk-very-secret-0123456789"
TICKET = "Subject: Cannot log in\nI am ada@example.com, customer cus_42, and the app says error 7."
TOOLS = [
    ToolSpec(
        "lookup_customer",
        "Find a customer.",
        {"type": "object", "properties": {"customer_id": {"type": "string"}}, "required": ["customer_id"]},
    ),
    ToolSpec(
        "search_articles",
        "Search the help articles.",
        {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    ),
]


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as server:
        yield server


@pytest.fixture
async def model(server: ModelServer) -> AsyncIterator[ModelEndpoint]:
    async with ModelEndpoint(server.url, KEY, "standin-large", timeout=5) as model:
        yield model


async def until(condition: Callable[[], bool], within: float = 5) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 -- the counters of another party send no event
            await asyncio.sleep(0.002)


async def test_an_answer_streams_token_by_token_and_comes_back_whole(model: ModelEndpoint) -> None:
    told: list[str] = []
    reply = await model.chat([Message("user", TICKET)], on_token=told.append)
    assert "Cannot log in" in reply.content
    assert "".join(told) == reply.content
    assert len(told) > 10
    assert (reply.model, reply.finish_reason, reply.tool_calls) == ("standin-large", "stop", ())
    assert not reply.usage.estimated
    assert reply.usage.output_tokens == len(told)
    assert ModelReply.from_json(json.loads(json.dumps(reply.to_json()))) == reply


async def test_a_conversation_goes_from_plan_over_tool_calls_to_a_draft(model: ModelEndpoint) -> None:
    conversation = [Message("system", "You triage."), Message("user", TICKET)]
    conversation.append((await model.chat(conversation)).message())
    calls = await model.chat(conversation, tools=TOOLS)
    assert calls.finish_reason == "tool_calls"
    assert calls.content == ""
    wanted = [(call.name, json.loads(call.arguments)) for call in calls.tool_calls]
    assert wanted == [
        ("lookup_customer", {"customer_id": "cus_42"}),
        ("search_articles", {"query": "Cannot log in"}),
    ]
    conversation.append(calls.message())
    results = [Message("tool", f"result of {call.name}", tool_call_id=call.id) for call in calls.tool_calls]
    draft = await model.chat([*conversation, *results], tools=TOOLS)
    assert draft.finish_reason == "stop"
    assert "result of lookup_customer" in draft.content


async def test_cancelling_the_call_closes_its_connection_so_no_more_tokens_are_made() -> None:
    async with ModelServer(token_delay_ms=5) as server, ModelEndpoint(server.url, KEY, "m") as model:
        told: list[str] = []
        call = asyncio.create_task(model.chat([Message("user", TICKET)], on_token=told.append))
        await until(lambda: len(told) >= 3)
        assert server.stats.open_streams == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: server.stats.open_streams == 0, within=1)
        assert server.stats.clients_left == 1
        assert server.stats.tokens_sent <= len(told) + 3  # at 5 ms each: well within 100 ms
        assert server.stats.tokens_sent_after_client_left == 0


async def test_the_counter_of_wasted_tokens_counts_when_the_server_does_not_stop() -> None:
    """The negative control of the test above: a server that goes on is seen to go on."""
    async with (
        ModelServer(token_delay_ms=1, stops_when_client_leaves=False) as server,
        ModelEndpoint(server.url, KEY, "m") as model,
    ):
        told: list[str] = []
        call = asyncio.create_task(model.chat([Message("user", TICKET)], on_token=told.append))
        await until(lambda: bool(told))
        call.cancel()
        await until(lambda: server.stats.open_streams == 0)
        assert server.stats.tokens_sent_after_client_left > 10


async def test_cancelling_a_call_that_hangs_before_its_first_byte_closes_it_too(
    server: ModelServer, model: ModelEndpoint
) -> None:
    server.faults.add(Fault("hang"))
    call = asyncio.create_task(model.chat([Message("user", TICKET)]))
    await until(lambda: server.stats.requests == 1 and len(server.requests) == 1)
    call.cancel()
    await until(lambda: server.stats.clients_left == 1, within=0.5)


async def test_calls_one_after_another_share_a_connection(server: ModelServer, model: ModelEndpoint) -> None:
    opened: set[object] = set()
    for _ in range(3):
        await model.chat([Message("user", TICKET)])
        opened |= set(server._line.connections._transports)
    assert len(opened) == 1


async def test_too_many_requests_is_unavailable_and_says_when_to_come_back(
    server: ModelServer, model: ModelEndpoint
) -> None:
    server.faults.add(Fault("429", retry_after=1.5))
    with pytest.raises(ModelUnavailable) as caught:
        await model.chat([Message("user", TICKET)])
    assert (caught.value.status, caught.value.retry_after, caught.value.retryable) == (429, 1.5, True)
    assert (await model.chat([Message("user", TICKET)])).content  # the fault is used up


@pytest.mark.parametrize("kind", ["500", "503", "408", "reset", "drop", "garbage", "error_in_stream"])
async def test_what_may_pass_is_unavailable(server: ModelServer, model: ModelEndpoint, kind: str) -> None:
    server.faults.add(Fault(kind))
    with pytest.raises(ModelUnavailable):
        await model.chat([Message("user", TICKET)])


async def test_a_stream_that_breaks_says_what_it_has_cost(server: ModelServer, model: ModelEndpoint) -> None:
    server.faults.add(Fault("drop", after_tokens=5))
    told: list[str] = []
    with pytest.raises(ModelUnavailable) as caught:
        await model.chat([Message("user", TICKET)], on_token=told.append)
    usage = caught.value.usage
    assert usage is not None
    assert usage.estimated
    assert usage.input_tokens == estimate_tokens([Message("user", TICKET)])
    assert usage.output_tokens > 0


async def test_silence_is_unavailable(server: ModelServer) -> None:
    server.faults.add(Fault("hang"))
    async with ModelEndpoint(server.url, KEY, "m", timeout=0.1) as model:
        with pytest.raises(ModelUnavailable, match=r"silent for 0\.1 s"):
            await model.chat([Message("user", TICKET)])


async def test_a_server_that_is_not_there_is_unavailable(server: ModelServer) -> None:
    url = server.url
    await server._server.stop()
    async with ModelEndpoint(url, KEY, "m") as model:
        with pytest.raises(ModelUnavailable, match="cannot be reached"):
            await model.chat([Message("user", TICKET)])


@pytest.mark.parametrize("kind", ["400", "403", "404", "422", "302"])
async def test_other_answers_are_refusals(server: ModelServer, model: ModelEndpoint, kind: str) -> None:
    server.faults.add(Fault(kind, code="some_code", param="messages"))
    with pytest.raises(ModelRefused) as caught:
        await model.chat([Message("user", TICKET)])
    error = caught.value
    assert (error.status, error.code, error.parameter) == (int(kind), "some_code", "messages")
    assert not error.retryable


async def test_a_wrong_key_is_refused_and_shown_nowhere_though_the_server_repeats_it(
    server: ModelServer,
) -> None:
    wrong = "sk-wrong-9876543210"
    async with ModelEndpoint(server.url, wrong, "m") as model:
        with pytest.raises(ModelRefused) as caught:
            await model.chat([Message("user", TICKET)])
        assert caught.value.status == 401
        assert "***" in str(caught.value)
        assert wrong not in str(caught.value) + repr(caught.value) + repr(model)


async def test_usage_is_estimated_when_the_provider_gives_none(
    server: ModelServer, model: ModelEndpoint
) -> None:
    server.faults.add(Fault("no_usage"))
    reply = await model.chat([Message("user", TICKET)])
    assert reply.usage.estimated
    assert reply.usage.input_tokens == estimate_tokens([Message("user", TICKET)])
    assert reply.usage.output_tokens >= len(reply.content) / 4


async def test_the_estimator_can_be_replaced(server: ModelServer) -> None:
    server.faults.add(Fault("no_usage"))
    async with ModelEndpoint(server.url, KEY, "m", estimate=lambda _messages, _tools: 1234) as model:
        assert model.estimate_tokens([]) == 1234
        assert (await model.chat([Message("user", TICKET)])).usage.input_tokens == 1234


async def test_a_provider_that_ignores_streaming_is_understood(
    server: ModelServer, model: ModelEndpoint
) -> None:
    server.faults.add(Fault("unstreamed"))
    told: list[str] = []
    reply = await model.chat([Message("user", TICKET)], tools=TOOLS, on_token=told.append)
    assert told == [reply.content]
    assert [call.name for call in reply.tool_calls] == ["lookup_customer", "search_articles"]
    assert not reply.usage.estimated


async def test_a_limit_cuts_the_answer(model: ModelEndpoint) -> None:
    reply = await model.chat([Message("user", TICKET)], max_tokens=4)
    assert (reply.finish_reason, reply.usage.output_tokens) == ("length", 4)


async def test_a_model_that_knows_the_limit_by_its_newer_name_is_asked_again_once() -> None:
    async with (
        ModelServer(only_max_completion_tokens=True) as server,
        ModelEndpoint(server.url, KEY, "m") as model,
    ):
        for _ in range(2):
            assert (await model.chat([Message("user", TICKET)], max_tokens=4)).usage.output_tokens == 4
        assert server.stats.requests == 3


async def test_a_call_carries_its_key_model_temperature_and_options(
    server: ModelServer, model: ModelEndpoint
) -> None:
    await model.chat(
        [Message("user", TICKET)],
        model="standin-small",
        temperature=0.25,
        idempotency_key="plan#1",
        options={"seed": 7, "model": "not this one"},
    )
    sent = server.requests[-1]
    assert sent["idempotency_key"] == "plan#1"
    assert (sent["body"]["model"], sent["body"]["temperature"], sent["body"]["seed"]) == (
        "standin-small",
        0.25,
        7,
    )
    await model.chat([Message("user", TICKET)], idempotency_key="Schlüssel\n")
    assert len(server.requests[-1]["idempotency_key"]) == 64


async def test_what_no_database_can_store_does_not_come_through(
    server: ModelServer, model: ModelEndpoint
) -> None:
    server.answers.append(Answer("a\x00b line\u2028separated", (("tool", {"text": "ünï"}),)))
    reply = await model.chat([Message("user", TICKET)])
    assert reply.content == "a\ufffdb line\u2028separated"
    assert reply.tool_calls == (ToolCall(reply.tool_calls[0].id, "tool", json.dumps({"text": "ünï"})),)


async def test_an_error_of_the_listener_reaches_the_caller_and_ends_the_stream() -> None:
    def fail(_text: str) -> None:
        raise ValueError("listener")

    async with ModelServer(token_delay_ms=2) as server, ModelEndpoint(server.url, KEY, "m") as model:
        with pytest.raises(ValueError, match="listener"):
            await model.chat([Message("user", TICKET)], on_token=fail)
        await until(lambda: server.stats.open_streams == 0, within=0.2)


async def test_a_hundred_calls_run_at_once(model: ModelEndpoint) -> None:
    replies = await asyncio.gather(*(model.chat([Message("user", f"Subject: {n}")]) for n in range(100)))
    assert all(f"“{n}”" in reply.content for n, reply in enumerate(replies))


def test_settings_come_from_the_environment_and_hide_the_key() -> None:
    settings = ModelSettings.from_environment(
        {"OPENAI_BASE_URL": "http://h/v1", "OPENAI_API_KEY": KEY, "OPENAI_MODEL": "m"}
    )
    assert settings == ModelSettings("http://h/v1", KEY, "m")
    assert KEY not in repr(settings)
    assert ModelSettings.from_environment({"OPENAI_API_KEY": KEY}).base_url.startswith(
        "https://api.openai.com"
    )
    with pytest.raises(ValueError, match="OPENAI_BASE_URL"):
        ModelSettings.from_environment({})


@pytest.mark.parametrize("url", ["", "ftp://host/v1", "host/v1", "http://", "http://me:secret@host/v1"])
def test_a_base_url_no_call_could_use_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as caught:
        ModelEndpoint(url, KEY, "m")
    assert "secret" not in str(caught.value)


def test_a_key_http_cannot_carry_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match="printable") as caught:
        ModelEndpoint("http://127.0.0.1/v1", "sk-secret\n", "m")
    assert "secret" not in str(caught.value)
