"""Calls any OpenAI-compatible model: always streaming, cancelled at once, failing in two typed ways.

The call itself, without a record: `run.model` makes a step of it.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from holdfast.agent.model_address import chat_url, checked_key, is_loopback
from holdfast.agent.model_error import (
    ModelError,
    ModelRefused,
    ModelUnavailable,
    error_from_answer,
    error_from_event,
    printable,
)
from holdfast.agent.model_request import header_value, request_body, with_limit
from holdfast.agent.model_stream import BrokenStream, EventReader, ReplyBuilder
from holdfast.agent.model_tokens import TokenEstimator, estimate_text, estimate_tokens
from holdfast.agent.model_tool import tool_arguments, tool_spec
from holdfast.agent.model_value import Message, ModelReply, Role, ToolCall, ToolSpec, Usage

__all__ = [
    "Message",
    "ModelEndpoint",
    "ModelError",
    "ModelRefused",
    "ModelReply",
    "ModelSettings",
    "ModelUnavailable",
    "Role",
    "TokenEstimator",
    "ToolCall",
    "ToolSpec",
    "Usage",
    "estimate_text",
    "estimate_tokens",
    "tool_arguments",
    "tool_spec",
]

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4o-mini"
END_OF_STREAM = b"[DONE]"
LARGEST_ERROR_BODY = 64 * 1024
LONGEST_END = 0.1  # seconds


@dataclass(frozen=True)
class ModelSettings:
    """Where the model is and how to reach it; the key is never shown."""

    base_url: str
    api_key: str = field(repr=False)
    model: str = DEFAULT_MODEL

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL.

        A base URL alone is enough for a server that wants no key, a key alone means OpenAI itself.
        OPENAI_MODEL may list several, divided by commas, best first. Raises ValueError, in one sentence, when
        both are missing.
        """
        base_url = environment.get("OPENAI_BASE_URL", "").strip()
        api_key = environment.get("OPENAI_API_KEY", "").strip()
        if not base_url and not api_key:
            raise ValueError("No model is configured: set OPENAI_BASE_URL, OPENAI_API_KEY, or both.")
        model = environment.get("OPENAI_MODEL", "").strip()
        return cls(base_url or DEFAULT_BASE_URL, api_key, model or DEFAULT_MODEL)

    def endpoint(self) -> "ModelEndpoint":
        """Return a client for the first of the models; close it when done."""
        return ModelEndpoint(self.base_url, self.api_key, self.models[0])

    @property
    def models(self) -> tuple[str, ...]:
        """The models that `model` lists, divided by commas, best first."""
        return tuple(name.strip() for name in self.model.split(",") if name.strip()) or (DEFAULT_MODEL,)


class ModelEndpoint:
    """One model behind one OpenAI-compatible base URL, shared by any number of calls of one event loop.

    `timeout` is the longest silence allowed, in seconds, before the first byte and between any two; how long
    a whole call may take is the caller's to say, by cancelling it, and so is how many calls run at once.
    `estimate` counts tokens where the provider does not, and before it does. `window` is how many tokens the
    model can hold, those it reads and those it writes together; 0 if it is not known. Raises ValueError for a
    URL or key of no use.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        *,
        timeout: float = 60.0,
        connect_timeout: float = 10.0,
        estimate: TokenEstimator = estimate_tokens,
        window: int = 0,
    ) -> None:
        self.window = window
        self._url = chat_url(base_url)
        self._where = str(self._url.copy_with(query=None)).removesuffix("/chat/completions")
        self._key = checked_key(api_key)
        self._model = model
        self._timeout = timeout
        self._estimate = estimate
        self._limit_names: dict[str, str] = {}  # by model, where it is not `max_tokens`
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=connect_timeout, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not is_loopback(self._url.host),  # no proxy stands between this machine and itself
        )

    def __repr__(self) -> str:
        return f"ModelEndpoint({self._where!r}, model={self._model!r})"

    @property
    def url(self) -> str:
        """Where it is, without what a query may hold."""
        return self._where

    @property
    def model(self) -> str:
        """The model asked when a call names no other."""
        return self._model

    def estimate_tokens(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """Return the tokens a call will read, by the estimator this endpoint was given."""
        return self._estimate(messages, tools)

    async def close(self) -> None:
        """Close idle connections. Harmless when repeated."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        on_token: Callable[[str], None] | None = None,
        idempotency_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ModelReply:
        """Ask the model and return its whole answer, telling `on_token` each piece of text as it arrives.

        Cancelling the task closes the connection at once, so the provider stops producing tokens. A call
        that fails after some text was told raises all the same: the next attempt tells it from the beginning.
        `options` are further fields of the request in the provider's words (`response_format`, …).
        Repeating a call costs again, unless the provider honours `idempotency_key`.
        Raises ModelUnavailable (try again later) and ModelRefused (do not), both without the key.
        """
        asked = model or self._model
        request = {**(options or {}), **request_body(messages, tools, asked)}
        if temperature is not None:
            request["temperature"] = temperature
        headers = self._headers(idempotency_key)
        builder = ReplyBuilder(asked, on_token)
        cost = self._estimate(messages, tools)
        limit_name = self._limit_names.get(asked, "max_tokens")
        try:
            await self._exchange(with_limit(request, limit_name, max_tokens), headers, builder, cost)
        except ModelRefused as refusal:
            # Reasoning models know the limit by its newer name only. Learnt once, then remembered.
            if limit_name != "max_tokens" or not refusal.names_unsupported(limit_name):
                raise
            limit_name = self._limit_names[asked] = "max_completion_tokens"
            await self._exchange(with_limit(request, limit_name, max_tokens), headers, builder, cost)
        return builder.reply(cost)

    def _headers(self, idempotency_key: str | None) -> dict[str, str]:
        headers = {"Accept": "text/event-stream"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if idempotency_key is not None:
            headers["Idempotency-Key"] = header_value(idempotency_key)
        return headers

    async def _exchange(
        self, request: dict[str, Any], headers: dict[str, str], builder: ReplyBuilder, cost: int
    ) -> None:
        """Make one HTTP call and read its answer into the builder."""
        try:
            # Leaving this block, by cancellation too, closes a connection that was not read to its end.
            async with self._client.stream("POST", self._url, json=request, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    body = await _beginning(response.aiter_bytes())
                    raise error_from_answer(
                        response.status_code, response.headers, body, where=self._where, key=self._key
                    )
                if response.headers.get("content-type", "").startswith("application/json"):
                    self._add(await response.aread(), builder, cost)
                else:
                    await self._read(response.aiter_bytes(), builder, cost)
        except httpx.RequestError as error:
            if builder.finished:
                return  # the answer is whole, only its trailer is lost: paying for it again helps nobody
            raise self._broken(self._reason(error), builder, cost) from error
        except BrokenStream as broken:
            raise self._broken(str(broken), builder, cost) from broken
        if not builder.finished:
            raise self._broken("ended its answer early", builder, cost)

    async def _read(self, chunks: AsyncIterator[bytes], builder: ReplyBuilder, cost: int) -> None:
        reader = EventReader()
        async for chunk in chunks:
            for data in reader.feed(chunk):
                if data == END_OF_STREAM:
                    await _read_out(chunks)
                    return
                self._add(data, builder, cost)
        for data in reader.end():
            if data != END_OF_STREAM:
                self._add(data, builder, cost)

    def _add(self, data: bytes, builder: ReplyBuilder, cost: int) -> None:
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BrokenStream("sent what is no JSON") from error
        if not isinstance(chunk, dict):
            raise BrokenStream("sent what is no chunk of an answer")
        if chunk.get("error"):
            raise error_from_event(chunk["error"], builder.usage(cost), where=self._where, key=self._key)
        builder.add(chunk)

    def _reason(self, error: httpx.RequestError) -> str:
        if isinstance(error, httpx.ConnectTimeout):
            return "took too long to connect to"
        if isinstance(error, httpx.TimeoutException):
            return f"was silent for {self._timeout:g} s"
        if isinstance(error, httpx.ConnectError):
            return f"cannot be reached: {error}"
        return f"broke the connection: {str(error) or type(error).__name__}"

    def _broken(self, reason: str, builder: ReplyBuilder, cost: int) -> ModelUnavailable:
        usage = builder.usage(cost) if builder.begun else None
        return ModelUnavailable(f"The model at {self._where} {printable(reason, self._key)}.", usage=usage)


async def _read_out(chunks: AsyncIterator[bytes]) -> None:
    """Read what is left, so the connection serves the next call; a slow end is not waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONGEST_END):
            async for _ in chunks:
                pass


async def _beginning(chunks: AsyncIterator[bytes]) -> bytes:
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) >= LARGEST_ERROR_BODY:
            break
    return body[:LARGEST_ERROR_BODY]
