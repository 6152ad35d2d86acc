"""Estimates tokens without a tokenizer, never far below what a provider will count.

Source of the ratio: OpenAI's rule of thumb of four characters a token in English text. Other scripts need
about a token a character, so characters outside ASCII count as one each.
"""

import json
import math
from collections.abc import Callable, Sequence

from holdfast.agent.model_value import Message, ToolSpec

CHARACTERS_A_TOKEN = 4
TOKENS_A_MESSAGE = 4  # the marks around each message
TOKENS_A_CALL = 8  # the id and the marks around each tool or tool call
TOKENS_A_REPLY = 3  # the marks that begin the answer

TokenEstimator = Callable[[Sequence[Message], Sequence[ToolSpec]], int]


def estimate_tokens(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
    """Return the tokens a call with these messages and tools will read, rounded up."""
    return TOKENS_A_REPLY + sum(map(_message_tokens, messages)) + sum(map(_tool_tokens, tools))


def estimate_text(text: str) -> int:
    """Return the tokens of a text, rounded up."""
    wide = 0 if text.isascii() else sum(not character.isascii() for character in text)
    return wide + math.ceil((len(text) - wide) / CHARACTERS_A_TOKEN)


def _message_tokens(message: Message) -> int:
    own = TOKENS_A_MESSAGE + estimate_text(message.content) + estimate_text(message.name or "")
    return own + sum(TOKENS_A_CALL + estimate_text(call.name + call.arguments) for call in message.tool_calls)


def _tool_tokens(tool: ToolSpec) -> int:
    schema = json.dumps(tool.parameters, ensure_ascii=False)
    return TOKENS_A_CALL + estimate_text(tool.name + tool.description + schema)
