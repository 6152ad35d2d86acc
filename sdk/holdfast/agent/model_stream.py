"""Reads a streamed answer: bytes to events, events to deltas, deltas to one reply.

Sources: the HTML standard, "Server-sent events"; OpenAI API reference, "Streaming".
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from holdfast.agent.model_tokens import estimate_text
from holdfast.agent.model_value import ModelReply, ToolCall, Usage

LARGEST_EVENT = 16 * 1024 * 1024
LINE_END = re.compile(rb"\r\n|\n|\r")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
HALF_CHARACTER = re.compile("[\ud800-\udbff]$")


class BrokenStream(Exception):  # noqa: N818 -- names what was found, never leaves the model modules
    """An answer that is not what the protocol says; the text completes "the model …"."""


class EventReader:
    """Cuts a stream of bytes into the data of its server-sent events, whatever the pieces it comes in.

    Lines end as the standard says and nowhere else: `str.splitlines` would also cut at U+2028, which JSON
    allows inside a string. An event above 16 MiB is refused, so a broken server cannot fill the memory.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # pieces of an unfinished line, joined once it ends
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of each event these bytes complete. Raises BrokenStream when one is too large."""
        text = chunk[1:] if self._after_return and chunk.startswith(b"\n") else chunk
        self._after_return = chunk.endswith(b"\r")
        self._size += len(text)
        first, *further = LINE_END.split(text)
        self._line.append(first)
        for begun in further:
            line, self._line = b"".join(self._line), [begun]
            if line:
                self._take(line)
            elif self._data:
                data, self._data, self._size = b"\n".join(self._data), [], len(begun)
                yield data
        if self._size > LARGEST_EVENT:
            raise BrokenStream("sent an event larger than 16 MiB")

    def end(self) -> Iterator[bytes]:
        """Yield the data of an event the stream ended in, as some servers leave out the last empty line."""
        self._take(b"".join(self._line))
        if self._data:
            yield b"\n".join(self._data)

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data:"):  # comments keep a connection alive, other fields are of no use here
            self._data.append(line[5:].removeprefix(b" "))


@dataclass
class _Call:
    """A tool call as its deltas have told it so far."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""


class ReplyBuilder:
    """Puts the chunks of one answer together and reports its text as it comes."""

    def __init__(self, model: str, on_token: Callable[[str], None] | None) -> None:
        self._model = model
        self._on_token = on_token
        self._text: list[str] = []
        self._half = ""
        self._calls: list[_Call] = []
        self._usage: tuple[int, int] | None = None
        self._finish_reason: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the model has said why it ended: what is missing after that is the usage at most."""
        return self._finish_reason is not None

    @property
    def begun(self) -> bool:
        """Whether any of the answer has arrived."""
        return bool(self._text or self._half or self._calls)

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk in; an unstreamed completion is one too. Raises BrokenStream for others."""
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        if isinstance(chunk.get("model"), str) and chunk["model"]:
            self._model = storable(chunk["model"])
        for choice in _objects(chunk.get("choices")):
            if choice.get("index") not in (None, 0):
                continue  # further alternatives are paid for but never asked for by us
            delta = _object(choice.get("delta") or choice.get("message"))
            self._add_text(_text(delta.get("content")) or _text(delta.get("refusal")))
            for call in _objects(delta.get("tool_calls")):
                self._add_call(call)
            if choice.get("finish_reason"):
                self._finish_reason = storable(str(choice["finish_reason"]))

    def _add_text(self, text: str) -> None:
        # A character cut in two by the provider (a surrogate pair over two chunks) is told when it is whole.
        text = self._half + text
        cut = HALF_CHARACTER.search(text)
        self._half = text[cut.start() :] if cut else ""
        self._tell(text[: cut.start()] if cut else text)

    def _tell(self, text: str) -> None:
        if not text:
            return
        text = storable(text)
        self._text.append(text)
        if self._on_token is not None:
            self._on_token(text)

    def _add_call(self, delta: dict[str, Any]) -> None:
        call = self._find_call(delta)
        function = _object(delta.get("function"))
        call.id = call.id or _text(delta.get("id"))
        call.name = call.name or _text(function.get("name"))
        call.arguments += _text(function.get("arguments"))

    def _find_call(self, delta: dict[str, Any]) -> _Call:
        """Find the call a delta goes on with: by index, or by id where all have the same index."""
        index, call_id = delta.get("index"), delta.get("id")
        for call in reversed(self._calls):
            same_place = index is None or call.index == index
            if same_place and (not call_id or not call.id or call.id == call_id):
                return call
        self._calls.append(_Call(index))
        return self._calls[-1]

    def usage(self, input_estimate: int) -> Usage:
        """Return the provider's count, or an estimate of what has arrived so far."""
        if self._usage is not None:
            return Usage(*self._usage)
        written = "".join(self._text) + "".join(call.name + call.arguments for call in self._calls)
        return Usage(input_estimate, estimate_text(written), estimated=True)

    def reply(self, input_estimate: int) -> ModelReply:
        """Return the whole answer; call it once, when the stream has ended."""
        half, self._half = self._half, ""
        self._tell(half)
        return ModelReply(
            content="".join(self._text),
            tool_calls=tuple(
                ToolCall(storable(call.id) or f"call_{place}", storable(call.name), storable(call.arguments))
                for place, call in enumerate(self._calls)
            ),
            usage=self.usage(input_estimate),
            model=self._model,
            finish_reason=self._finish_reason or "stop",
        )


def storable(text: str) -> str:
    """Return text PostgreSQL and protobuf take: pairs of surrogates joined, NUL and lone halves replaced."""
    if not UNSTORABLE.search(text):
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\x00", "\ufffd")


def _object(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise BrokenStream("sent a chunk with a field of the wrong type")
    return value or {}


def _objects(value: Any) -> list[dict[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise BrokenStream("sent a chunk with a field of the wrong type")
    return [_object(item) for item in value or []]


def _text(value: Any) -> str:
    """Return text given as such or in typed parts; other parts (reasoning, audio) are not the answer."""
    if isinstance(value, list):
        return "".join(part["text"] for part in _objects(value) if isinstance(part.get("text"), str))
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
