"""The values of a model call, each with a JSON form that is recorded with the run and read back as it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

Role = Literal["system", "developer", "user", "assistant", "tool"]
JsonObject = dict[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """A tool the model wants called; `arguments` is JSON as the model wrote it, which need not be valid."""

    id: str
    name: str
    arguments: str

    def to_json(self) -> JsonObject:
        """Return the recorded form."""
        return {"id": self.id, "name": self.name, "arguments": self.arguments}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the recorded form back."""
        return cls(document["id"], document["name"], document["arguments"])


@dataclass(frozen=True)
class Message:
    """One message of a conversation; `tool_call_id` says which call a tool's result answers."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"A message's role is one of {', '.join(get_args(Role))}, not {self.role!r}.")

    def to_json(self) -> JsonObject:
        """Return the recorded form, without the fields that are empty."""
        document: JsonObject = {"role": self.role, "content": self.content}
        if self.tool_calls:
            document["tool_calls"] = [call.to_json() for call in self.tool_calls]
        if self.tool_call_id is not None:
            document["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            document["name"] = self.name
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the recorded form back."""
        return cls(
            role=document["role"],
            content=document["content"],
            tool_calls=tuple(ToolCall.from_json(call) for call in document.get("tool_calls", ())),
            tool_call_id=document.get("tool_call_id"),
            name=document.get("name"),
        )


@dataclass(frozen=True)
class ToolSpec:
    """A tool offered to the model; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: JsonObject

    def to_json(self) -> JsonObject:
        """Return the recorded form."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the recorded form back."""
        return cls(document["name"], document["description"], document["parameters"])


@dataclass(frozen=True)
class Usage:
    """Tokens one call has used; `estimated` when the provider did not say and we counted characters."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Tokens in and out together."""
        return self.input_tokens + self.output_tokens

    def to_json(self) -> JsonObject:
        """Return the recorded form."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "estimated": self.estimated,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the recorded form back, also after protobuf's Struct has turned its integers into floats."""
        return cls(int(document["input_tokens"]), int(document["output_tokens"]), document["estimated"])


@dataclass(frozen=True)
class ModelReply:
    """A whole answer; `model` is who answered, `finish_reason` why it ended (`stop`, `length`, …)."""

    content: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    model: str
    finish_reason: str

    def message(self) -> Message:
        """Return the reply as the assistant's message, to go on with the conversation."""
        return Message("assistant", self.content, self.tool_calls)

    def to_json(self) -> JsonObject:
        """Return the recorded form."""
        return {
            "content": self.content,
            "tool_calls": [call.to_json() for call in self.tool_calls],
            "usage": self.usage.to_json(),
            "model": self.model,
            "finish_reason": self.finish_reason,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the recorded form back."""
        return cls(
            content=document["content"],
            tool_calls=tuple(ToolCall.from_json(call) for call in document["tool_calls"]),
            usage=Usage.from_json(document["usage"]),
            model=document["model"],
            finish_reason=document["finish_reason"],
        )
