"""A model call as a step: reserved before, settled after, told piece by piece as it arrives."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.agent.budget import Budget
from holdfast.agent.codec import canonical
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.scope import Frame
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.error import NotRecordable
from holdfast.agent.model import Message, ModelEndpoint, ModelError, ModelReply, ToolSpec, estimate_text
from holdfast.agent.step import Policy
from holdfast.agent.wire.draft import MODEL

LONGEST_REPLY = 4096
"""Tokens every model may write; with less than that left, the reply is limited to what is left."""


class _ReplyShape:
    """Records a `ModelReply` by its own JSON form."""

    def record(self, value: ModelReply) -> tuple[bytes, ModelReply]:
        return canonical(value.to_json()), value

    def read(self, encoded: bytes) -> ModelReply:
        try:
            return ModelReply.from_json(json.loads(encoded))
        except (KeyError, TypeError) as error:
            raise NotRecordable(f"the record is not a model's reply: {error!r}") from error


_SHAPE = _ReplyShape()


def model_call(
    endpoint: Callable[[], ModelEndpoint],
    messages: Sequence[Message],
    *,
    run_id: str,
    name: str,
    policy: Policy,
    tools: Sequence[ToolSpec],
    model: str | None,
    max_tokens: int | None,
    temperature: float | None,
    options: Mapping[str, Any] | None,
    stream: bool,
    transcript: Transcript,
    budget: Budget,
    estimate: int,
) -> Call:
    """Describe a call of a model as a step; the input is what the model is asked, not where it runs."""

    async def execute(key: str, frame: Frame) -> ModelReply:
        heard: list[str] = []

        def told(text: str) -> None:
            heard.append(text)
            if stream:
                transcript.token(frame, text)

        left = budget.tokens  # beyond the estimate, which is already set aside for this call
        limit = max_tokens if left >= (max_tokens or LONGEST_REPLY) else max(1, left)
        try:
            reply = await endpoint().chat(
                messages,
                tools=tools,
                model=model,
                max_tokens=limit,
                temperature=temperature,
                on_token=told,
                idempotency_key=f"{run_id}/{key}",
                options=options,
            )
        except asyncio.CancelledError:
            # It has read what it was asked, and written what was heard: that is paid for.
            frame.tokens_used = estimate + estimate_text("".join(heard))
            frame.context = estimate
            raise
        except ModelError as error:
            if error.usage is not None:
                frame.tokens_used = error.usage.total_tokens
                frame.context = error.usage.input_tokens
            raise
        frame.tokens_used = reply.usage.total_tokens
        frame.context = reply.usage.input_tokens
        return reply

    asked: dict[str, Any] = {"messages": [message.to_json() for message in messages]}
    if tools:
        asked["tools"] = [tool.to_json() for tool in tools]
    wishes = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "options": options or None,
    }
    asked.update({wish: value for wish, value in wishes.items() if value is not None})
    return Call(
        name=name,
        kind=MODEL,
        input=asked,
        policy=policy,
        result=_SHAPE,
        execute=execute,
        tokens=estimate,
        context=estimate,
    )
