"""What a scripted model answers: in order, or by what it is asked; with tools, tokens and failures.

A call's answers are its own: one that a crash has lost gets the same again when it is asked again, as a
recorded conversation would. Calls made side by side take their answers in the order in which they ask; where
that may differ, answer by what is asked.
"""

import asyncio
import copy
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.agent.model import (
    Message,
    ModelEndpoint,
    ModelError,
    ModelRefused,
    ModelReply,
    ModelUnavailable,
    ToolCall,
    ToolSpec,
    Usage,
    estimate_text,
    estimate_tokens,
)
from holdfast.agent.model_breaker import ModelBreaker
from holdfast.agent.model_ladder import Models


@dataclass(frozen=True)
class Answer:
    """One answer of a model: a text, calls of tools, or a failure after some text.

    `tokens` are those read and those written, estimated if None; `takes` is how long it writes, in seconds.
    """

    text: str = ""
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    error: ModelError | None = None
    tokens: tuple[int, int] | None = None
    takes: float = 0.0


Ask = Callable[[Sequence[Message]], "Answer | str"]


def reply(text: str, *, tokens: tuple[int, int] | None = None, takes: float = 0.0) -> Answer:
    """Answer with a text, told word by word over `takes` seconds."""
    return Answer(text, tokens=tokens, takes=takes)


def tool_call(name: str, /, **arguments: Any) -> Answer:
    """Answer by calling a tool."""
    return Answer(calls=((name, arguments),))


def tool_calls(*calls: Answer) -> Answer:
    """Answer by calling several tools side by side: `tool_calls(tool_call(…), tool_call(…))`."""
    return Answer(calls=tuple(itertools.chain.from_iterable(each.calls for each in calls)))


def unavailable(*, status: int = 429, retry_after: float | None = None) -> Answer:
    """Answer that it cannot now: the step is tried again, after `retry_after` seconds at the earliest."""
    message = f"The scripted model answered {status}."
    return Answer(error=ModelUnavailable(message, status=status, retry_after=retry_after))


def refused(*, status: int = 400) -> Answer:
    """Answer that it never will: the step fails for good."""
    return Answer(error=ModelRefused(f"The scripted model answered {status}.", status=status))


def broken(text: str = "", *, tokens: tuple[int, int] | None = None) -> Answer:
    """Break the connection after some text, which is paid for."""
    usage = Usage(*tokens) if tokens else None
    error = ModelUnavailable("The scripted model broke the connection.", usage=usage)
    return Answer(text, error=error, tokens=tokens)


class Script:
    """What a model answers, one answer a try: texts, answers, or a single function of the messages asked."""

    def __init__(self, *answers: Answer | str | Ask) -> None:
        """Raise ValueError for a function among others: which of them answers would be a matter of order."""
        by_function = [each for each in answers if callable(each)]
        if by_function and len(answers) > 1:
            raise ValueError("A script is answers in order, or one function: not both.")
        self.ask: Ask | None = by_function[0] if by_function else None
        self.answers: tuple[Answer | str, ...] = tuple(each for each in answers if not callable(each))


@dataclass
class _Heard:
    """The answers that one call got, how many of them have been given, and had been before this lease."""

    answers: list[Answer] = field(default_factory=list)
    given: int = 0
    before: int = 0


class ScriptedEndpoint(ModelEndpoint):
    """Speaks as a script has it, and to nobody else."""

    def __init__(self, name: str, script: Script, window: int = 0) -> None:
        # Nothing of an endpoint's own is begun: it would open a client for a server that is not there.
        self.window = window
        self._name = name
        self._script = script
        self._left = list(script.answers)
        self._heard: dict[str, _Heard] = {}
        self._calls = itertools.count(1)
        self.over: str | None = None
        """What it was asked when its script was over already."""

    def __repr__(self) -> str:
        return f"ScriptedEndpoint({self._name!r})"

    @property
    def url(self) -> str:
        """Where it is: nowhere."""
        return ""

    @property
    def model(self) -> str:
        """The model's name."""
        return self._name

    def estimate_tokens(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """Return the tokens a call will read."""
        return estimate_tokens(messages, tools)

    async def close(self) -> None:
        """Close nothing."""

    def leased(self, *, killed: bool) -> None:
        """Begin a lease; after a kill, give again what was heard under the one before."""
        for heard in self._heard.values():
            if killed:
                heard.given = heard.before
            heard.before = heard.given

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        model: str | None = None,
        max_tokens: int | None = None,  # noqa: ARG002 -- a script is as long as it is
        temperature: float | None = None,  # noqa: ARG002
        on_token: Callable[[str], None] | None = None,
        idempotency_key: str | None = None,
        options: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> ModelReply:
        """Answer as the script has it; refuse, and note it as `over`, when it has nothing more to say."""
        call = idempotency_key or str(next(self._calls))
        answer = self._next(call, messages)
        words = answer.text.split(" ")
        pieces = [word + " " for word in words[:-1]] + words[-1:]
        for piece in pieces:
            if answer.takes:
                await asyncio.sleep(answer.takes / len(pieces))
            if on_token is not None and piece:
                on_token(piece)
        if answer.error is not None:
            raise copy.copy(answer.error)  # what is raised is written on
        read, written = answer.tokens or (self.estimate_tokens(messages, tools), _written(answer))
        return ModelReply(
            content=answer.text,
            tool_calls=tuple(
                ToolCall(f"{call.rpartition('/')[2]}.{place}", name, json.dumps(dict(arguments)))
                for place, (name, arguments) in enumerate(answer.calls, 1)
            ),
            usage=Usage(read, written, estimated=answer.tokens is None),
            model=model or self._name,
            finish_reason="tool_calls" if answer.calls else "stop",
        )

    def _next(self, call: str, messages: Sequence[Message]) -> Answer:
        if self._script.ask is not None:
            return _answer(self._script.ask(messages))
        heard = self._heard.setdefault(call, _Heard())
        if heard.given == len(heard.answers):
            if not self._left:
                said = messages[-1].content[:80] if messages else ""
                self.over = f"The script of {self._name} is over, and it was asked {said!r}."
                raise ModelRefused(self.over)
            heard.answers.append(_answer(self._left.pop(0)))
        heard.given += 1
        return heard.answers[heard.given - 1]


class ScriptedModels(Models):
    """A ladder of scripted models; their breakers go by the lab's clock."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        """Raise ValueError without any."""
        self._endpoints = {name: ScriptedEndpoint(name, script) for name, script in scripts.items()}
        super().__init__(**self._endpoints)
        clock = asyncio.get_running_loop().time
        self._breakers = {name: ModelBreaker(clock=clock) for name in scripts}

    @property
    def over(self) -> str | None:
        """What a model was asked when its script was over already."""
        return next((each.over for each in self._endpoints.values() if each.over), None)

    def leased(self, *, killed: bool) -> None:
        """Begin a lease; after a kill, give again what was heard under the one before."""
        for endpoint in self._endpoints.values():
            endpoint.leased(killed=killed)


def _answer(given: Answer | str) -> Answer:
    return Answer(given) if isinstance(given, str) else given


def _written(answer: Answer) -> int:
    return estimate_text(answer.text) + sum(estimate_text(str(call)) for call in answer.calls)
