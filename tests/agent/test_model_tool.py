"""Typed async functions as tools."""

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from holdfast.agent.model import tool_arguments, tool_spec


@dataclass
class Place:
    city: str
    zip: int = 0


async def find(
    query: Annotated[str, Field(description="What to look for.")],
    place: Place,
    order: Literal["new", "old"] = "new",
    limit: int = 5,
    *,
    schema: str | None = None,
    idempotency_key: str = "",
) -> list[str]:
    """Find things.

    Near a place.
    """
    return [query, place.city, order, str(limit), schema or "", idempotency_key]


def test_a_typed_function_becomes_a_schema_without_the_idempotency_key() -> None:
    spec = tool_spec(find)
    assert (spec.name, spec.description) == ("find", "Find things.\n\nNear a place.")
    properties = spec.parameters["properties"]
    assert list(properties) == ["query", "place", "order", "limit", "schema"]
    assert properties["query"] == {"description": "What to look for.", "type": "string"}
    assert properties["order"] == {"default": "new", "enum": ["new", "old"], "type": "string"}
    assert spec.parameters["required"] == ["query", "place"]
    assert spec.parameters["additionalProperties"] is False


def test_arguments_come_back_typed_and_leave_defaults_to_the_function() -> None:
    arguments = tool_arguments(find, '{"query": "x", "place": {"city": "Bonn"}, "limit": 2}')
    assert arguments == {"query": "x", "place": Place("Bonn"), "limit": 2}


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[]", '{"query": 1}', '{"query": "x", "place": {"city": "y"}, "idempotency_key": "k"}'],
)
def test_wrong_arguments_are_named(text: str) -> None:
    with pytest.raises(ValidationError):
        tool_arguments(find, text)


async def test_a_function_without_parameters_takes_empty_text_for_no_arguments() -> None:
    async def ping() -> str:
        return "pong"

    assert tool_spec(ping).parameters["properties"] == {}
    assert await ping(**tool_arguments(ping, "")) == "pong"


def test_a_wrapped_function_is_described_as_the_one_it_wraps() -> None:
    @functools.wraps(find)
    async def wrapped(*args: Any, **kwargs: Any) -> list[str]:
        return await find(*args, **kwargs)

    assert tool_spec(wrapped) == tool_spec(find)


def test_a_function_no_model_can_call_is_refused() -> None:
    async def untyped(x): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    async def starred(*x: int) -> None: ...
    async def by_place(x: int, /) -> None: ...
    async def größe() -> None: ...  # noqa: PLC2401 -- the case in question
    def plain() -> None: ...

    for function, complaint in (
        (untyped, "x of the tool untyped needs a type"),
        (starred, "by its name"),
        (by_place, "by its name"),
        (größe, "does not fit"),
        (plain, "async"),
    ):
        with pytest.raises(TypeError, match=complaint):
            tool_spec(function)  # type: ignore[arg-type]
