"""What a model is shown when there is more to say than it may read: the oldest goes first.

A system or developer message always stays, and so does the last message of the user with all that follows it.
A model's tool calls and their answers go together or not at all: a provider refuses one without the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal, get_args

from holdfast.agent.model_value import Message

Trim = Literal["error", "oldest_first", "summarise"]
TRIMS: Final = get_args(Trim)

_SHORTEST: Final = 80  # characters
_KEPT: Final = ("system", "developer")


def oldest_first(
    messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]
) -> tuple[list[Message], list[Message]]:
    """Divide messages into those that are shown and those that are left out, the oldest, as few as needed.

    What must stay is shown even if it does not fit. Both keep their order.
    """
    groups = _groups(messages)
    droppable = [at for at, group in enumerate(groups) if _may_go(groups, at, group)]
    gone: set[int] = set()
    for at in [*droppable, None]:
        shown = [message for place, group in enumerate(groups) if place not in gone for message in group]
        if at is None or fits(shown):
            break
        gone.add(at)
    left_out = [message for place, group in enumerate(groups) if place in gone for message in group]
    return [message for place, group in enumerate(groups) if place not in gone for message in group], left_out


def cut(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[Message]:
    """Shorten the last message from its beginning, until all fit or next to nothing is left of it."""
    *before, last = messages
    text = last.content
    while len(text) > _SHORTEST and not fits([*before, replace(last, content=text)]):
        text = text[len(text) // 8 :]
    return [*before, replace(last, content=text)]


def _groups(messages: Sequence[Message]) -> list[list[Message]]:
    """Gather each message with what answers it: tool calls with their results."""
    groups: list[list[Message]] = []
    for message in messages:
        if message.role == "tool" and groups and groups[-1][0].tool_calls:
            groups[-1].append(message)
        else:
            groups.append([message])
    return groups


def _may_go(groups: Sequence[Sequence[Message]], at: int, group: Sequence[Message]) -> bool:
    if group[0].role in _KEPT:
        return False
    asked = [place for place, each in enumerate(groups) if each[0].role == "user"]
    return at < (asked[-1] if asked else len(groups) - 1)
