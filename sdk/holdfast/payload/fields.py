"""Which fields of which messages hold payloads: read once out of the contract's descriptors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from holdfast.v1 import sealing_pb2

_OPAQUE = (Struct.DESCRIPTOR.full_name, Value.DESCRIPTOR.full_name)


@dataclass(frozen=True, slots=True)
class Field:
    """A field with payloads: itself one (`sealable`), or a message with some."""

    name: str
    sealable: bool
    is_map: bool
    is_repeated: bool
    is_message: bool


@cache
def fields_of(message: Descriptor) -> tuple[Field, ...]:
    """Return the fields of a message that hold payloads, themselves or further inside."""
    return tuple(_found(message))


def reach(message: Message, change: Callable[[Any], Any]) -> None:
    """Give every payload that is set in a message to `change`, and set what it returns for bytes and texts.

    Messages (Struct, Value) are changed in place.
    """
    for field in fields_of(message.DESCRIPTOR):
        if field.is_map:
            _reach_map(getattr(message, field.name), field, change)
        elif field.is_repeated:
            for member in getattr(message, field.name):
                (change if field.sealable else _inner(change))(member)
        elif field.is_message:
            if message.HasField(field.name):
                (change if field.sealable else _inner(change))(getattr(message, field.name))
        elif value := getattr(message, field.name):
            setattr(message, field.name, change(value))


def _inner(change: Callable[[Any], Any]) -> Callable[[Message], None]:
    return lambda message: reach(message, change)


def _reach_map(entries: Any, field: Field, change: Callable[[Any], Any]) -> None:
    for key in list(entries):
        value = entries[key]
        if not field.sealable:
            reach(value, change)
        elif isinstance(value, Message):
            change(value)
        else:
            entries[key] = change(value)


def _found(message: Descriptor) -> Iterator[Field]:
    for field in message.fields:
        entry = field.message_type
        is_map = entry is not None and entry.GetOptions().map_entry
        inner = entry.fields_by_name["value"].message_type if is_map and entry is not None else entry
        sealable = bool(field.GetOptions().Extensions[sealing_pb2.sealable])
        if sealable or (inner is not None and _holds(inner, ())):
            yield Field(field.name, sealable, is_map, field.is_repeated, _is_message(field))


def _holds(message: Descriptor, above: tuple[str, ...]) -> bool:
    """Whether a message has payloads; `above` are those it is being looked for in."""
    if message.full_name in _OPAQUE or message.full_name in above:
        return False
    for field in message.fields:
        if field.GetOptions().Extensions[sealing_pb2.sealable]:
            return True
        inner = field.message_type
        if inner is not None and _holds(inner, (*above, message.full_name)):
            return True
    return False


def _is_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None
