"""What is recorded reads back as what the agent went on with."""

import datetime as dt
import enum
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.agent.codec import LARGEST, Shape, canonical
from holdfast.agent.error import NotRecordable
from holdfast.agent.step import Policy, as_step, step


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.5
    tags: frozenset[str] = field(default_factory=frozenset)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: dt.datetime
    place: uuid.UUID


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_reads_back_as_itself(value: Any) -> None:
    encoded, live = Shape(Any).record(value)
    assert live == Shape(Any).read(encoded) == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Point, Point(1, 2.0, frozenset({"a", "b"}))),
        (list[Point], [Point(1), Point(2)]),
        (dict[str, Point | None], {"a": Point(1), "b": None}),
        (Strict, Strict(when=dt.datetime.now(dt.UTC), place=uuid.uuid4())),
        (dt.timedelta, dt.timedelta(seconds=1.5)),
        (Decimal, Decimal("1.10")),
        (Colour, Colour.RED),
        (tuple[int, str], (1, "a")),
        (bytes, b"plain"),
        (None, None),
        (str, "ümläut"),
        (float, 1.5),
    ],
)
def test_a_typed_value_reads_back_with_its_type(annotation: Any, value: Any) -> None:
    shape = Shape(annotation)
    encoded, live = shape.record(value)
    read = shape.read(encoded)
    assert live == read == value
    assert type(live) is type(read) is type(value)


@pytest.mark.parametrize("value", [object(), float("nan"), "\ud800", {1: object()}, "x" * LARGEST])
def test_what_cannot_be_recorded_is_refused(value: Any) -> None:
    with pytest.raises(NotRecordable):
        Shape(Any).record(value)


def test_a_value_of_another_type_than_promised_is_refused_naming_the_field() -> None:
    with pytest.raises(NotRecordable, match="x: "):
        Shape(Point).record({"x": "one"})


def test_equal_inputs_are_the_same_whatever_their_order() -> None:
    words = ["one", "two", "three", "four", "five"]
    other = list(reversed(words))
    assert canonical({"a": 1, "b": set(words)}) == canonical({"b": set(other), "a": 1})
    first, second = Point(1, tags=frozenset(words)), Point(1, tags=frozenset(other))
    assert canonical({"p": first}) == canonical({"p": second})
    assert canonical(frozenset(words)) == b'["five","four","one","three","two"]'


def test_a_payload_is_checked_as_json_is() -> None:
    shape = Shape(Strict)
    given = {"when": "2026-01-01T00:00:00Z", "place": str(uuid.uuid4())}
    assert isinstance(shape.accept(given), Strict)
    with pytest.raises(ValidationError):
        Shape(list).accept({})


def test_a_steps_input_names_its_arguments_however_they_are_passed() -> None:
    async def read(path: str, *more: str, limit: int = 1, idempotency_key: str = "") -> None:
        del path, more, limit, idempotency_key

    made = as_step(read)
    assert made.input(("a",), {"limit": 2}) == made.input((), {"path": "a", "limit": 2})
    assert made.input(("a", "b", "c"), {}) == {"path": "a", "more": ("b", "c")}
    assert made.input(("a",), {"idempotency_key": "mine"}) == {"path": "a"}


def test_what_cannot_be_a_step_is_refused_when_it_is_declared() -> None:
    def plain() -> None:
        pass

    async def untyped() -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
        pass

    with pytest.raises(TypeError, match="must be an async function"):
        step(plain)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be resolved"):
        step(untyped)
    with pytest.raises(ValueError, match="does not fit"):
        step(name="a/b")(_nothing)
    with pytest.raises(ValueError, match="at least one attempt"):
        Policy(attempts=0)


async def _nothing() -> None:
    pass


async def test_a_step_called_outside_of_a_run_is_its_function() -> None:
    @step(attempts=2)
    async def double(number: int) -> int:
        """Double it."""
        return number * 2

    assert await double(4) == 8
    assert double.name == "double"
    assert double.__doc__ == "Double it."
