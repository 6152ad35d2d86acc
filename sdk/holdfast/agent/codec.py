"""Values in and out of records: what is read back equals what the agent went on with."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python

from holdfast.agent.error import NotRecordable
from holdfast.payload import is_sealed_json

LARGEST: Final = 1024 * 1024
"""Bytes of one recorded output. A run keeps references to larger things, not the things."""

_FIXED: Final = (str, int, bool, type(None))
_PLAIN: Final = (Any, dict, list, object)


def canonical(value: Any) -> bytes:
    """Return JSON that is the same for equal values, in whatever order their keys and set members come.

    Raises `NotRecordable`.
    """
    return _bytes(_CANONICAL(value))


class Shape:
    """How values of one annotation are recorded and read back."""

    __slots__ = ("_adapter", "_annotation", "_fixed")

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        # By identity: an annotation need not be hashable or comparable.
        self._fixed = next((each for each in _FIXED if each is annotation), None)
        plain = any(each is annotation for each in _PLAIN)
        self._adapter: TypeAdapter[Any] | None = None if plain else TypeAdapter(annotation)

    def record(self, value: Any) -> tuple[bytes, Any]:
        """Return a value's JSON, and the value as a replay will see it. Raises `NotRecordable`."""
        if self._fixed is not None and type(value) is self._fixed:
            return _bytes(_OUTPUT(value)), value  # its own and immutable: nothing to read back
        adapter = self._adapter
        if adapter is None:
            encoded = _bytes(_OUTPUT(value))
            return encoded, from_json(encoded)
        try:
            encoded = adapter.dump_json(adapter.validate_python(value))
            return _bounded(encoded), adapter.validate_json(encoded)
        except ValidationError as error:
            raise NotRecordable(f"it does not fit its type: {fields_of(error)}") from error
        except (PydanticSerializationError, UnicodeError) as error:
            raise NotRecordable(str(error)) from error

    def read(self, encoded: bytes) -> Any:
        """Return the value of a record. Raises `NotRecordable` when its type has changed since."""
        if is_sealed_json(encoded):
            raise NotRecordable("the record is sealed, and this runner has not the key")
        if self._adapter is None:
            return from_json(encoded)
        try:
            return self._adapter.validate_json(encoded)
        except ValidationError as error:
            raise NotRecordable(f"the record no longer fits its type: {fields_of(error)}") from error

    def accept(self, value: Any) -> Any:
        """Return JSON from outside as a value of the annotation. Raises `pydantic.ValidationError`."""
        annotation = self._annotation
        if annotation is Any or annotation is object or (annotation is dict and isinstance(value, dict)):
            return value
        if self._adapter is None:
            return TypeAdapter(annotation).validate_python(value)  # a list, or not what was promised
        return self._adapter.validate_json(json.dumps(value))


def fields_of(error: ValidationError) -> str:
    """Name each wrong field with what is wrong, without its value."""
    told = [
        f"{'.'.join(map(str, each['loc'])) or 'the value'}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False, include_context=False)[:10]
    ]
    return "; ".join(told)


def plain(value: Any) -> Any:
    """Return any value as JSON's own types. Raises `NotRecordable`."""
    return from_json(_bytes(_OUTPUT(value)))


def _encoder(encode: Callable[[Any], str]) -> Callable[[Any], str]:
    def encoded(value: Any) -> str:
        try:
            return encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotRecordable(f"it is no JSON: {error}") from error

    return encoded


def _members(value: Any) -> Any:
    """Take one value apart that is not JSON's own; what is inside comes back here."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, set | frozenset):
        return sorted(value, key=_CANONICAL)
    return to_jsonable_python(value)


_CANONICAL: Final = _encoder(
    json.JSONEncoder(
        sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_members
    ).encode
)
_OUTPUT: Final = _encoder(
    json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_members).encode
)


def _bytes(text: str) -> bytes:
    try:
        return _bounded(text.encode())
    except UnicodeEncodeError as error:
        raise NotRecordable("it holds half of a character (a lone surrogate)") from error


def _bounded(encoded: bytes) -> bytes:
    if len(encoded) > LARGEST:
        raise NotRecordable(f"it takes {len(encoded):,} bytes of JSON, and {LARGEST:,} are the most")
    return encoded
