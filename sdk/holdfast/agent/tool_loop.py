"""A model that calls tools until it has its answer: every model call and every tool call is a step."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.agent.codec import canonical, plain
from holdfast.agent.error import StepFailed
from holdfast.agent.model_tool import tool_arguments
from holdfast.agent.model_value import Message, ModelReply, ToolCall
from holdfast.agent.step import Step

Tool = Callable[..., Coroutine[Any, Any, Any]]
OneCall = Callable[[ToolCall], Coroutine[Any, Any, str]]


@dataclass(frozen=True, slots=True)
class Talk:
    """How a conversation with tools ended: the last reply, and all messages with it.

    `finished` is False if the rounds were used up while the model still wanted tools.
    """

    reply: ModelReply
    messages: list[Message]
    rounds: int
    finished: bool

    @property
    def content(self) -> str:
        """What the model said last."""
        return self.reply.content


async def converse(
    messages: Sequence[Message],
    tools: Mapping[str, Tool],
    *,
    ask: Callable[[Sequence[Message]], Awaitable[ModelReply]],
    call: Callable[..., Awaitable[Any]],
    side_by_side: Callable[[OneCall, Sequence[ToolCall]], Awaitable[list[str]]],
    max_rounds: int | None,
) -> Talk:
    """Ask and call until the model wants no more tools, or the rounds are used up.

    `ask` asks the model, `call` calls a tool, `side_by_side` goes through a reply's calls.
    """
    talk = list(messages)
    rounds = 0
    while True:
        reply = await ask(talk)
        rounds += 1
        talk.append(reply.message())
        if not reply.tool_calls:
            return Talk(reply, talk, rounds, finished=True)
        if max_rounds is not None and rounds >= max_rounds:
            return Talk(reply, talk, rounds, finished=False)

        async def answered(wanted: ToolCall) -> str:
            return await _answered(call, tools, wanted)

        answers = await side_by_side(answered, reply.tool_calls)
        for wanted, answer in zip(reply.tool_calls, answers, strict=True):
            talk.append(Message("tool", answer, tool_call_id=wanted.id))


async def _answered(call: Callable[..., Awaitable[Any]], tools: Mapping[str, Tool], asked: ToolCall) -> str:
    """Do what the model asks for; if that is no call, or it fails for good, let the model read why."""
    wanted = tools.get(asked.name)
    if wanted is None:
        return f"There is no tool {asked.name}; there are: {', '.join(tools)}."
    try:
        arguments = tool_arguments(wanted.fn if isinstance(wanted, Step) else wanted, asked.arguments)
    except ValueError as error:
        return f"This call is not possible: {error}"
    try:
        result = await call(wanted, **arguments)
    except StepFailed as failed:
        return f"The tool failed: {failed.failure.message or failed.failure.reason}"
    return result if isinstance(result, str) else canonical(plain(result)).decode()
