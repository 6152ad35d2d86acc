"""The OpenAI chat-completions protocol as a server sees it: requests checked, answers cut into chunks.

Source: OpenAI API reference, "Chat completions" and "Streaming".
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from examples.standins.serving import json_object

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
TOKEN = re.compile(r"\s*\S+|\s+$")


class ChatRequestError(Exception):
    """A request the protocol refuses with 400; carries what OpenAI's error body names."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


@dataclass(frozen=True)
class Answer:
    """What the model says: text, calls of tools as (name, arguments), or both."""

    content: str = ""
    tool_calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True)
class ChatRequest:
    """One checked request, its fields named as in the protocol."""

    body: dict[str, Any]

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.body["model"])

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def tools(self) -> dict[str, dict[str, Any]]:
        """The JSON schema of the arguments of each tool offered, by the tool's name."""
        offered = self.body.get("tools") or []
        return {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in offered}

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted in chunks."""
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """Whether a last chunk with the usage is wanted."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    @property
    def max_tokens(self) -> int | None:
        """The limit of the answer's length, by whichever of its two names it came."""
        limit: int | None = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return limit


def check_request(document: Any) -> ChatRequest:
    """Return the request, or raise ChatRequestError as the protocol would refuse it."""
    try:
        body = json_object(document)
    except ValueError as error:
        raise ChatRequestError("We could not parse the JSON body of your request.") from error
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise ChatRequestError("you must provide a model parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ChatRequestError(
            "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"
        )
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ChatRequestError(
                f"Invalid value at messages[{place}].role.", f"messages[{place}].role", "invalid_value"
            )
    _check_tool_calls(messages)
    if body.get("stream_options") is not None and not body.get("stream"):
        raise ChatRequestError("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ChatRequestError(f"Invalid '{name}': an integer above 0 is expected.", name, "invalid_type")
    return ChatRequest(body)


def _check_tool_calls(messages: list[dict[str, Any]]) -> None:
    """Refuse a tool's result nobody asked for and a tool call nobody answered."""
    waiting: set[str] = set()
    for place, message in enumerate(messages):
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in waiting:
                raise ChatRequestError(
                    f"messages[{place}]: role 'tool' must follow 'tool_calls' with its id.",
                    f"messages[{place}].role",
                )
            waiting.discard(call_id)
            continue
        if waiting:
            raise ChatRequestError(
                f"messages[{place}]: these tool_call_ids have no answer: {', '.join(sorted(waiting))}.",
                "messages",
            )
        waiting = {call["id"] for call in message.get("tool_calls") or []}
    if waiting:
        raise ChatRequestError(
            f"These tool_call_ids have no answer: {', '.join(sorted(waiting))}.", "messages"
        )


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return the body of a refusal as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Completion:
    """One answer to one request, cut into tokens; the same request always gives the same tokens and ids."""

    def __init__(self, request: ChatRequest, answer: Answer) -> None:
        self._request = request
        self._digest = hashlib.sha256(json.dumps(request.body, sort_keys=True).encode()).hexdigest()
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{self._digest[:24]}",
            "created": int(time.time()),
            "model": request.model,
        }
        words = TOKEN.findall(answer.content)
        limit = request.max_tokens
        self._cut_short = limit is not None and len(words) > limit
        self._words = words[:limit] if self._cut_short else words
        self._calls = () if self._cut_short else answer.tool_calls

    @property
    def finish_reason(self) -> str:
        """Why the answer ends."""
        if self._cut_short:
            return "length"
        return "tool_calls" if self._calls else "stop"

    def deltas(self) -> Iterator[dict[str, Any]]:
        """Yield the answer token by token, as the `delta` of one chunk each."""
        for word in self._words:
            yield {"content": word}
        for index, (name, arguments) in enumerate(self._calls):
            start = {"name": name, "arguments": ""}
            yield {
                "tool_calls": [
                    {"index": index, "id": self._call_id(index), "type": "function", "function": start}
                ]
            }
            for piece in _pieces(json.dumps(arguments)):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """Return one streamed chunk around a delta."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if self._request.wants_usage else chunk

    def usage_chunk(self) -> dict[str, Any]:
        """Return the last chunk, which has the usage and no choice."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self.usage()}

    def whole(self) -> dict[str, Any]:
        """Return the whole answer at once."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._words) or None}
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": self._call_id(index),
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for index, (name, arguments) in enumerate(self._calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Count a token for four characters read and one for each delta written."""
        read = json.dumps([self._request.messages, self._request.body.get("tools")])
        prompt, completion = math.ceil(len(read) / 4), sum(1 for _ in self.deltas())
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _call_id(self, index: int) -> str:
        return f"call_{self._digest[:16]}_{index}"


def _pieces(text: str, size: int = 8) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
