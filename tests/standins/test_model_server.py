"""The stand-in model server speaks OpenAI's protocol, seen from a bare HTTP client."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from examples.standins.fault import Fault
from examples.standins.model_server import ModelServer

AUTH = {"Authorization": "Bearer any"}
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Subject: Broken"}]}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def http(server: ModelServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.origin, headers=AUTH, trust_env=False, timeout=5) as http:
        yield http


async def test_a_whole_answer_has_the_shape_of_a_chat_completion(http: httpx.AsyncClient) -> None:
    first, second = [(await http.post("/v1/chat/completions", json=ASK)).json() for _ in range(2)]
    assert first["object"] == "chat.completion"
    assert first["choices"][0]["message"]["role"] == "assistant"
    assert (
        first["usage"]["total_tokens"]
        == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    )
    assert (first["id"], first["choices"]) == (second["id"], second["choices"])


async def test_a_stream_ends_with_finish_reason_usage_and_done(http: httpx.AsyncClient) -> None:
    ask = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    response = await http.post("/v1/chat/completions", json=ask)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 3
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": ASK["messages"]}, None),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": [{"role": "robot"}]}, "messages[0].role"),
        (
            {"model": "m", "messages": [{"role": "tool", "content": "", "tool_call_id": "x"}]},
            "messages[0].role",
        ),
        ({**ASK, "stream_options": {"include_usage": True}}, "stream_options"),
        ({**ASK, "max_tokens": 0}, "max_tokens"),
        ([], None),
    ],
)
async def test_a_bad_request_is_refused_as_openai_refuses_it(
    http: httpx.AsyncClient, body: Any, param: str | None
) -> None:
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_a_call_of_a_tool_must_be_answered_before_the_conversation_goes_on(
    http: httpx.AsyncClient,
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}}
    messages = [
        *ASK["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "user", "content": "?"},
    ]
    response = await http.post("/v1/chat/completions", json={**ASK, "messages": messages})
    assert response.status_code == 400
    assert "c1" in response.json()["error"]["message"]


async def test_without_a_key_nothing_is_answered(server: ModelServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        assert (await http.get("/models")).status_code == 401
        assert (await http.post("/chat/completions", json=ASK)).status_code == 401
        listed = await http.get("/models", headers=AUTH)
        assert [model["id"] for model in listed.json()["data"]] == ["standin-large", "standin-small"]


async def test_an_unknown_model_is_not_found_where_models_are_named() -> None:
    async with (
        ModelServer(models=("only",)) as server,
        httpx.AsyncClient(headers=AUTH, trust_env=False) as http,
    ):
        response = await http.post(f"{server.url}/chat/completions", json=ASK)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_faults_come_in_order_and_are_used_up(http: httpx.AsyncClient) -> None:
    for fault in ({"kind": 429, "count": 2, "retry_after": 3}, {"kind": "500"}):
        assert (await http.post("/admin/faults", json=fault)).status_code == 204
    answers = [await http.post("/v1/chat/completions", json=ASK) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [429, 429, 500, 200]
    assert answers[0].headers["retry-after"] == "3"
    by_header = await http.post("/v1/chat/completions", json=ASK, headers={"X-Standin-Fault": "503"})
    assert by_header.status_code == 503
    nonsenses: list[Any] = [
        {"kind": "flood"},
        {"kind": "200"},
        {"kind": "500", "often": 2},
        {"kind": "500", "count": 0},
        [],
    ]
    for nonsense in nonsenses:
        assert (await http.post("/admin/faults", json=nonsense)).status_code == 400


async def test_the_next_answers_can_be_dictated(http: httpx.AsyncClient) -> None:
    answer = {"content": "Yes.", "tool_calls": [{"name": "t", "arguments": {"a": 1}}]}
    assert (await http.post("/admin/answers", json=answer)).status_code == 204
    message = (await http.post("/v1/chat/completions", json=ASK)).json()["choices"][0]["message"]
    assert message["content"] == "Yes."
    assert message["tool_calls"][0]["function"] == {"name": "t", "arguments": '{"a": 1}'}
    assert (await http.post("/admin/answers", json={"tool_calls": [{}]})).status_code == 400


async def test_the_counters_are_served(http: httpx.AsyncClient) -> None:
    await http.post("/v1/chat/completions", json={**ASK, "stream": True})
    stats = (await http.get("/stats")).json()
    assert stats["requests"] == stats["streams"] == 1
    assert stats["tokens_sent"] > 10
    assert (stats["open_streams"], stats["clients_left"], stats["tokens_sent_after_client_left"]) == (0, 0, 0)
    assert (await http.get("/requests")).json()[0]["body"]["model"] == "m"


async def test_a_stream_without_delay_notices_its_reader_leaving(server: ModelServer) -> None:
    ask = {**ASK, "messages": [{"role": "user", "content": "Subject: " + "x " * 30}], "stream": True}
    async with httpx.AsyncClient(headers=AUTH, trust_env=False) as http:
        async with http.stream("POST", f"{server.url}/chat/completions", json=ask) as response:
            await anext(response.aiter_bytes(1))
        async with asyncio.timeout(2):
            while server.stats.open_streams:  # noqa: ASYNC110 -- a counter sends no event
                await asyncio.sleep(0.002)


async def test_a_stream_may_start_slowly_and_come_to_its_end(
    server: ModelServer, http: httpx.AsyncClient
) -> None:
    ask = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    server.faults.add(Fault("slow_start", delay=0.05))
    began = asyncio.get_running_loop().time()
    response = await http.post("/v1/chat/completions", json=ask)
    assert asyncio.get_running_loop().time() - began >= 0.05
    assert response.text.strip().endswith("[DONE]")
    assert '"usage": {' in response.text
    assert server.departures.empty()


async def test_it_is_known_when_a_client_left(server: ModelServer) -> None:
    server.faults.add(Fault("slow_start", delay=60))
    async with httpx.AsyncClient(headers=AUTH, trust_env=False) as http:
        async with http.stream("POST", f"{server.url}/chat/completions", json={**ASK, "stream": True}):
            began = time.monotonic()
        assert await asyncio.wait_for(server.departures.get(), 5) >= began
    assert (server.stats.clients_left, server.stats.tokens_sent) == (1, 0)


async def test_as_a_process_it_tells_its_url_serves_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "examples.standins.model_server", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = json.loads(await process.stdout.readline())["url"]
        async with httpx.AsyncClient(headers=AUTH, trust_env=False) as http:
            assert (await http.post(f"{url}/chat/completions", json=ASK)).status_code == 200
        port = url.split(":")[2].split("/")[0]
        second = await asyncio.to_thread(
            subprocess.run, [*command[:-1], port], capture_output=True, text=True, timeout=20, check=False
        )
        assert second.returncode == 1
        assert f"127.0.0.1:{port}" in second.stderr
        assert "Traceback" not in second.stderr
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
