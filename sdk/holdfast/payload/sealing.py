"""Seals the payloads of messages on their way out, and opens those of messages that come in."""

import json
import logging
import math
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from holdfast.payload.codec import PayloadCodec
from holdfast.payload.fields import fields_of, reach
from holdfast.payload.mark import KEY, is_sealed, is_sealed_json, marked, marked_json, unmarked
from holdfast.v1.checkpoint_pb2 import StepRecord

M = TypeVar("M", bound=Message)

_INNER: Final = KEY.encode()
_MOST_TOLD: Final = 16
_log: Final = logging.getLogger(__name__)


class Sealing:
    """What is sealed already stays as it is; what cannot be opened stays sealed, and that is logged.

    An opened message may still hold sealed values, then: `is_sealed` tells.
    """

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec
        self._told: set[str] = set()

    def sealed(self, message: M) -> M:
        """Return the message with its payloads sealed; one without any is returned as it is."""
        if not fields_of(message.DESCRIPTOR):
            return message
        copy = type(message)()
        copy.CopyFrom(message)
        reach(copy, self._seal)
        return copy

    def opened(self, message: M) -> M:
        """Open the payloads of a message in place, also where they are inside of others; return it."""
        reach(message, self._open)
        return message

    def opened_record(self, record: bytes) -> bytes:
        """Return a serialized StepRecord opened."""
        return self.opened(StepRecord.FromString(record)).SerializeToString()

    def sealed_json(self, encoded: bytes) -> bytes:
        """Return JSON as that of a sealed value."""
        return encoded if is_sealed_json(encoded) else marked_json(self._codec.encode(encoded))

    def opened_plain(self, plain: Any) -> Any:
        """Return a value of JSON opened, also where others hold it."""
        if is_sealed(plain):
            return self._loaded(plain[KEY], plain)
        if isinstance(plain, dict):
            return {key: self.opened_plain(member) for key, member in plain.items()}
        return [self.opened_plain(member) for member in plain] if isinstance(plain, list) else plain

    def _seal(self, payload: Any) -> Any:
        if isinstance(payload, bytes):
            return self.sealed_json(payload)
        if isinstance(payload, str):
            return (
                payload if is_sealed_json(payload.encode()) else self.sealed_json(_dumped(payload)).decode()
            )
        try:
            plain = json_format.MessageToDict(payload)
        except (json_format.SerializeToJsonError, ValueError):
            _member(payload).number_value = math.nan  # no JSON: who gets it refuses it
            return None
        if not is_sealed(plain):
            _member(payload).string_value = marked(self._codec.encode(_dumped(plain)))
        return None

    def _open(self, payload: Any) -> Any:
        if isinstance(payload, bytes):
            return self._opened_bytes(payload)
        if isinstance(payload, str):
            return self._opened_text(payload)
        if isinstance(payload, Struct):
            self._open_struct(payload)
        else:
            self._open_value(payload)
        return None

    def _opened_bytes(self, encoded: bytes) -> bytes:
        if _INNER not in encoded:
            return encoded
        try:
            plain = json.loads(encoded)
        except ValueError:
            return encoded
        if is_sealed(plain):
            opened = self._decoded(plain[KEY])
            return encoded if opened is None else opened
        inside = self.opened_plain(plain)
        return encoded if inside == plain else json.dumps(inside, ensure_ascii=False).encode()

    def _opened_text(self, text: str) -> str:
        if not is_sealed_json(text.encode()):
            return text
        opened = self._loaded(json.loads(text)[KEY], text)
        return opened if isinstance(opened, str) else text

    def _open_struct(self, struct: Struct) -> None:
        sealed = _sealed_text(struct)
        if sealed is None:
            for member in struct.fields.values():
                self._open_value(member)
        else:
            self._put(sealed, struct)

    def _open_value(self, value: Value) -> None:
        kind = value.WhichOneof("kind")
        if kind == "list_value":
            for member in value.list_value.values:
                self._open_value(member)
        elif kind == "struct_value" and (sealed := _sealed_text(value.struct_value)) is not None:
            self._put(sealed, value)
        elif kind == "struct_value":
            self._open_struct(value.struct_value)

    def _put(self, sealed: str, target: Struct | Value) -> None:
        """Put what is under the name in its place; what does not fit there stays sealed."""
        opened = self._decoded(sealed)
        if opened is None:
            return
        fresh = type(target)()
        try:
            json_format.Parse(opened, fresh)
        except json_format.ParseError:
            self._tell("it is not what can stand in its place")
        else:
            target.CopyFrom(fresh)  # type: ignore[arg-type]  # of the same type

    def _loaded(self, sealed: str, otherwise: Any) -> Any:
        opened = self._decoded(sealed)
        try:
            return otherwise if opened is None else json.loads(opened)
        except (ValueError, RecursionError):
            self._tell("it is no JSON")
            return otherwise

    def _decoded(self, text: str) -> bytes | None:
        try:
            return self._codec.decode(unmarked(text))
        except ValueError as error:
            self._tell(str(error))
            return None

    def _tell(self, why: str) -> None:
        """Log why a payload stays sealed, each reason once."""
        if why not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(why)
            _log.warning("a payload stays sealed: %s", why)


def _sealed_text(struct: Struct) -> str | None:
    """Return what is under the name of a sealed object; None for any other."""
    if len(struct.fields) != 1 or KEY not in struct.fields:
        return None
    member = struct.fields[KEY]
    return member.string_value if member.HasField("string_value") else None


def _member(payload: Struct | Value) -> Value:
    """Make a payload the object that has one member, and return that."""
    payload.Clear()
    return (payload if isinstance(payload, Struct) else payload.struct_value).fields[KEY]


def _dumped(plain: Any) -> bytes:
    """Return JSON that is the same for equal values."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
