"""Writes a model call as the OpenAI chat-completions protocol wants it.

Source: OpenAI API reference, "Chat completions".
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from holdfast.agent.model_value import Message, ToolSpec

LONGEST_HEADER = 255


def request_body(messages: Sequence[Message], tools: Sequence[ToolSpec], model: str) -> dict[str, Any]:
    """Return the body of a streaming call that asks for its usage."""
    request: dict[str, Any] = {
        "model": model,
        "messages": [_wire_message(message) for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if tools:
        request["tools"] = [{"type": "function", "function": tool.to_json()} for tool in tools]
    return request


def _wire_message(message: Message) -> dict[str, Any]:
    wire = message.to_json()
    if message.tool_calls:
        wire["content"] = message.content or None
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return wire


def with_limit(request: dict[str, Any], limit_name: str, max_tokens: int | None) -> dict[str, Any]:
    """Return the body with the limit under the name the model knows it by, None for no limit."""
    return request if max_tokens is None else {**request, limit_name: max_tokens}


def header_value(text: str) -> str:
    """Return the text itself where HTTP can carry it, else its hash, which is as stable."""
    if text.isascii() and text.isprintable() and len(text) <= LONGEST_HEADER and text == text.strip():
        return text
    return hashlib.sha256(text.encode()).hexdigest()
