"""Plain Python values and protobuf's own: JSON values, times, durations, any message as a mapping."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.message import Message

_EXACT: Final = 2**53  # up to here a double holds every integer


def struct_of(payload: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return a mapping as a Struct. Raises ValueError for what JSON cannot hold."""
    struct = struct_pb2.Struct()
    struct.update(payload)
    return struct


def payload_size(payload: Mapping[str, Any]) -> int:
    """Return how many bytes a payload has as it is sent. Raises ValueError for what JSON cannot hold."""
    return struct_of(payload).ByteSize()


def value_of(value: Any) -> struct_pb2.Value:
    """Return a JSON value as a Value. Raises ValueError for what JSON cannot hold."""
    holder = struct_pb2.ListValue()
    holder.append(value)
    return holder.values[0]


def json_bytes(value: Any) -> bytes:
    """Return a JSON value as text. Raises ValueError for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except TypeError as error:
        raise ValueError(f"This is not JSON: {error}.") from error


def plain_value(value: struct_pb2.Value) -> Any:
    """Return a Value as plain Python; a number without fraction comes as an int."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain_struct(value.struct_value)
    if kind == "list_value":
        return [plain_value(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    if kind == "string_value":
        return value.string_value
    return value.bool_value if kind == "bool_value" else None


def plain_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Return a Struct as a dict."""
    return {key: plain_value(value) for key, value in struct.fields.items()}


def time_of(stamp: timestamp_pb2.Timestamp) -> datetime | None:
    """Return a time in UTC; None for one that is not set."""
    if not stamp.seconds and not stamp.nanos:
        return None
    return datetime.fromtimestamp(stamp.seconds, UTC) + timedelta(microseconds=stamp.nanos // 1000)


def stamp_of(time: datetime) -> timestamp_pb2.Timestamp:
    """Return a time as a Timestamp. Raises ValueError for one without a zone: it would mean several times."""
    if time.tzinfo is None:
        raise ValueError(f"The time {time.isoformat()} has no time zone.")
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(time)
    return stamp


def seconds_of(duration: duration_pb2.Duration) -> float:
    """Return a duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def duration_of(seconds: float) -> duration_pb2.Duration:
    """Return seconds as a Duration."""
    nanoseconds = round(seconds * 1e9)
    sign = -1 if nanoseconds < 0 else 1
    whole, rest = divmod(abs(nanoseconds), 10**9)
    return duration_pb2.Duration(seconds=sign * whole, nanos=sign * rest)


def plain_message(message: Message) -> dict[str, Any]:
    """Return any message as a dict of all its fields; messages not set are None, enums words."""
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            plain[field.name] = _plain_repeated(field, value)
        elif field.message_type is not None and not message.HasField(field.name):
            plain[field.name] = None
        else:
            plain[field.name] = _plain_field(field, value)
    return plain


def word(enum: Any, number: int) -> str:
    """Return the name of an enum's number without the enum's own, `UNKNOWN_n` for one that has none."""
    known = enum.values_by_number.get(number)
    if known is None:
        return f"UNKNOWN_{number}"
    prefix = _screaming(enum.name)
    return str(known.name).removeprefix(prefix)


def _screaming(name: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in name).lstrip("_") + "_"


def _plain_repeated(field: Any, value: Any) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return {key: _plain_field(entry.fields_by_name["value"], value[key]) for key in value}
    return [_plain_field(field, item) for item in value]


def _plain_field(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return word(field.enum_type, value)
    if isinstance(value, struct_pb2.Value):
        return plain_value(value)
    if isinstance(value, struct_pb2.Struct):
        return plain_struct(value)
    if isinstance(value, timestamp_pb2.Timestamp):
        return time_of(value)
    if isinstance(value, duration_pb2.Duration):
        return seconds_of(value)
    return plain_message(value) if isinstance(value, Message) else value
