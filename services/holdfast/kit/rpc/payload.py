"""A payload is read once: made plain, checked, and measured on the way."""

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2

MAX_BYTES = 1 << 20
# Each level is up to three messages on the wire, and protobuf reads no more than 100 inside one another: what
# is admitted must still be readable inside of every message that carries it.
MAX_DEPTH = 30


class PayloadError(ValueError):
    """The payload cannot be accepted; `field` is where, the text is why."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


def plain_struct(struct: struct_pb2.Struct, field: str) -> dict[str, Any]:
    """Return a Struct as JSON values, whole numbers as int; raise PayloadError for what cannot be kept."""
    return _mapping(struct.fields, field, 1)


def plain_value(value: struct_pb2.Value, field: str) -> Any:
    """Return a Value as a JSON value; raise PayloadError for what cannot be kept."""
    return _value(value, field, 1)


def _mapping(fields: Mapping[str, struct_pb2.Value], field: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise PayloadError(field, f"is nested deeper than {MAX_DEPTH} levels")
    plain = {}
    for key, value in fields.items():
        if "\0" in key:
            raise PayloadError(field, "has a NUL character in a key")
        plain[key] = _value(value, field, depth)
    return plain


def _value(value: struct_pb2.Value, field: str, depth: int) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        if "\0" in value.string_value:
            raise PayloadError(field, "has a NUL character")
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value, field)
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return _mapping(value.struct_value.fields, field, depth + 1)
    if kind == "list_value":
        if depth >= MAX_DEPTH:
            raise PayloadError(field, f"is nested deeper than {MAX_DEPTH} levels")
        return [_value(item, field, depth + 1) for item in value.list_value.values]
    return None


def _number(number: float, field: str) -> int | float:
    if not math.isfinite(number):
        raise PayloadError(field, "has a number that JSON cannot hold")
    # Struct numbers are doubles: up to 2^53 a whole one is exact as an int.
    return int(number) if number.is_integer() and abs(number) <= 2**53 else number


def value_of(plain: Any) -> struct_pb2.Value:
    """Return a JSON value as a Value."""
    value = struct_pb2.Value()
    fill_value(value, plain)
    return value


def fill_value(value: struct_pb2.Value, plain: Any) -> None:
    """Write a JSON value into an empty Value."""
    match plain:
        case str():
            value.string_value = plain
        case bool():
            value.bool_value = plain
        case None:
            value.null_value = struct_pb2.NULL_VALUE
        case dict():
            value.struct_value.SetInParent()
            fields = value.struct_value.fields
            for key, item in plain.items():
                fill_value(fields[key], item)
        case list():
            value.list_value.SetInParent()
            for item in plain:
                fill_value(value.list_value.values.add(), item)
        case _:
            value.number_value = plain
