"""A model call as a step: reserved before, settled after, told piece by piece as it arrives."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.agent.budget import Budget
from holdfast.agent.codec import canonical
from holdfast.agent.degradation import Degradation
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.scope import Frame
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.error import NotRecordable
from holdfast.agent.model import Message, ModelEndpoint, ModelError, ModelReply, ModelUnavailable, ToolSpec
from holdfast.agent.model_ladder import Climb, Models
from holdfast.agent.model_tokens import estimate_text, estimate_tokens
from holdfast.agent.model_trim import Trim, cut, oldest_first
from holdfast.agent.step import Policy
from holdfast.agent.wire.draft import MODEL

LONGEST_REPLY = 4096
"""Tokens every model may write; with less than that left, the reply is limited to what is left."""

Summarise = Callable[[str, Sequence[Message]], Awaitable[str]]
"""Returns in a few words what messages say, as a step of the key given."""


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


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the author asks of a model call, beside the messages."""

    tools: Sequence[ToolSpec] = ()
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    options: Mapping[str, Any] | None = None
    stream: bool = True
    trim: Trim | Literal["cut"] = "error"

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded of them, without what is left out."""
        asked: dict[str, Any] = {"tools": [tool.to_json() for tool in self.tools]} if self.tools else {}
        said = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "options": self.options or None,
        }
        return asked | {wish: value for wish, value in said.items() if value is not None}


@dataclass(slots=True)
class ModelCall:
    """One call of a model over all tries of its step.

    What it is asked and what it is shown may differ: the record holds the first, so that a replay does not
    depend on what there was room for.
    """

    models: Callable[[], Models]
    messages: Sequence[Message]
    wishes: Wishes
    run_id: str
    transcript: Transcript
    budget: Budget
    degradation: Degradation
    summarise: Summarise
    shown: Sequence[Message] = field(default=())
    _climb: Climb | None = None
    _made: Call | None = None
    _left_out: int = 0
    _told: int = 0

    def call(self, name: str, policy: Policy) -> Call:
        """Describe it as a step; the input is what the model is asked, not where it runs."""
        asked = {"messages": [message.to_json() for message in self.messages]} | self.wishes.to_json()
        made = Call(name=name, kind=MODEL, input=asked, policy=policy, result=_SHAPE, execute=self._execute)

        async def prepare(key: str) -> None:
            self.shown = await self._trimmed(key)
            made.reads = self._size(self.shown)
            made.writes = self.wishes.max_tokens or LONGEST_REPLY

        made.prepare = prepare
        self._made = made
        return made

    def _size(self, messages: Sequence[Message]) -> int:
        try:
            return self.models().estimate_tokens(messages, self.wishes.tools)
        except ValueError:  # no model is configured: the call itself says so, as a step that fails
            return estimate_tokens(messages, self.wishes.tools)

    def _room(self, window: int) -> int:
        """Return the tokens that may be read: of the context, and of the window beside what is written."""
        room = int(self.budget.context * self.degradation.context)
        if window:
            room = min(room, window - min(self.wishes.max_tokens or LONGEST_REPLY, window // 2))
        return room

    def _window(self) -> int:
        try:
            return self.models().window(self.wishes.model or self.degradation.use)
        except ValueError:  # no model is configured: the call itself says so
            return 0

    async def _trimmed(self, key: str) -> Sequence[Message]:
        """Return the messages there is room for, as the agent's policy chooses them."""
        room = self._room(self._window())
        if self.wishes.trim == "error" or self._size(self.messages) <= room:
            return self.messages

        def fits(messages: Sequence[Message], beside: int = 0) -> bool:
            return self._size(messages) + beside <= room

        if self.wishes.trim == "cut":
            return cut(self.messages, fits)
        shown, left_out = oldest_first(self.messages, fits)
        self._left_out = len(left_out)
        if self.wishes.trim == "oldest_first" or not left_out:
            return shown
        # The key says how much it sums up: a replay may have less room, and asks for another summary then.
        summed_up = await self.summarise(f"{key}.summary.{len(left_out)}", left_out)
        summary = Message("system", f"Earlier in this conversation: {summed_up}")
        beside = self._size([summary])
        shown, left_out = oldest_first(self.messages, lambda messages: fits(messages, beside))
        self._left_out = len(left_out)
        at = next((n for n, each in enumerate(shown) if each.role not in ("system", "developer")), len(shown))
        return [*shown[:at], summary, *shown[at:]]

    def _fit(self, frame: Frame, endpoint: ModelEndpoint) -> None:
        """Leave out what this model has no room for, too, and tell what is left out when it becomes more."""
        room = self._room(endpoint.window)
        if self.wishes.trim in ("oldest_first", "summarise") and self._size(self.shown) > room:
            shown, left_out = oldest_first(self.shown, lambda messages: self._size(messages) <= room)
            self.shown = shown
            self._left_out += len(left_out)
        if self._left_out > self._told:
            self._told = self._left_out
            self.transcript.trimmed(
                frame, self._left_out, len(self.messages), self._size(self.messages), room
            )

    async def _execute(self, key: str, frame: Frame) -> ModelReply:
        """Ask the model whose turn it is; the next try may be another's."""
        climb = self._climb
        if climb is None:
            climb = self._climb = self.models().climb(self.wishes.model or self.degradation.use)
        endpoint = await climb.endpoint()
        heard: list[str] = []
        try:
            self._fit(frame, endpoint)
            reply = await self._asked(endpoint, climb.asked, key, frame, heard)
        except ModelUnavailable as error:
            self._count(frame, error)
            if climb.failed(error):
                error.elsewhere = True
                self.transcript.fell_back(frame, climb.name)
            raise
        except ModelError as error:
            climb.answered()
            self._count(frame, error)
            raise
        except BaseException as error:
            climb.unsaid()
            if not isinstance(error, asyncio.CancelledError):
                raise
            # It has read what it was asked, and written what was heard: that is paid for.
            frame.context = self._size(self.shown)
            frame.tokens_used = frame.context + estimate_text("".join(heard))
            raise
        climb.answered()
        frame.tokens_used = reply.usage.total_tokens
        frame.context = reply.usage.input_tokens
        return reply

    async def _asked(
        self, endpoint: ModelEndpoint, model: str | None, key: str, frame: Frame, heard: list[str]
    ) -> ModelReply:
        wishes = self.wishes

        def told(text: str) -> None:
            heard.append(text)
            if wishes.stream:
                self.transcript.token(frame, text)

        with frame.owner.observer.model(model or endpoint.model, endpoint.url) as watching:
            reply = await endpoint.chat(
                self.shown,
                tools=wishes.tools,
                model=model,
                max_tokens=self._limit(endpoint),
                temperature=wishes.temperature,
                on_token=told,
                idempotency_key=f"{self.run_id}/{key}",
                options=wishes.options,
            )
            watching.answered(reply)
        return reply

    def _limit(self, endpoint: ModelEndpoint) -> int | None:
        """Return how much may be written: no more than is left, and than the model has room for."""
        wished = self.wishes.max_tokens
        assert self._made is not None  # it is executed as the call it has made
        left = self._made.allowed
        if endpoint.window:
            left = min(left, max(1, endpoint.window - self._size(self.shown)))
        return wished if left >= (wished or LONGEST_REPLY) else max(1, left)

    @staticmethod
    def _count(frame: Frame, error: ModelError) -> None:
        if error.usage is not None:
            frame.tokens_used = error.usage.total_tokens
            frame.context = error.usage.input_tokens
