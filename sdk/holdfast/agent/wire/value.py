"""JSON as Python has it and JSON as the contract has it."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from holdfast.agent.error import NotRecordable

EXACT = 2**53
"""Whole numbers below this survive a double."""
DEEPEST = 24
"""Levels of JSON: each is three of a message, and no reader of messages goes deeper than 100."""
SHOWN = 32 * 1024
"""Bytes of JSON that are shown whole."""


def write(target: Value, value: Any, depth: int = DEEPEST) -> None:
    """Put JSON's own types (as `codec.plain` returns them) into a message. Raises `NotRecordable`."""
    if depth < 0:
        raise NotRecordable(f"it is nested more than {DEEPEST} levels deep")
    if value is None:
        target.null_value = 0  # type: ignore[assignment]  # the enum has one member, of this number
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    elif isinstance(value, Mapping):
        fields = target.struct_value.fields
        target.struct_value.SetInParent()
        for key, member in value.items():
            write(fields[key], member, depth - 1)
    else:
        target.list_value.SetInParent()
        for member in value:
            write(target.list_value.values.add(), member, depth - 1)


def read(value: Value) -> Any:
    """Return a message's JSON; doubles that are whole numbers come back as `int`, as written."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return read_struct(value.struct_value)
    if kind == "list_value":
        return [read(member) for member in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if abs(number) < EXACT and number.is_integer() else number
    if kind == "string_value":
        return value.string_value
    return value.bool_value if kind == "bool_value" else None


def read_struct(struct: Struct) -> dict[str, Any]:
    """Return an object's JSON."""
    return {key: read(member) for key, member in struct.fields.items()}


def show(target: Value, encoded: bytes) -> None:
    """Put JSON into a message for people to see: what is long or deep is cut, and shown as text."""
    if len(encoded) <= SHOWN:
        try:
            write(target, json.loads(encoded))
        except NotRecordable:
            target.Clear()
        else:
            return
    shown = encoded[:SHOWN].decode(errors="ignore")
    target.string_value = shown if len(encoded) <= SHOWN else shown + "…"
