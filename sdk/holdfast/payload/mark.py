"""How a sealed value is told from others: it is an object with one member, of this name."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

KEY: Final = "holdfast.sealed"
_NAME: Final = KEY.encode()
_START: Final = f'{{"{KEY}":"'.encode()


def is_sealed(value: Any) -> bool:
    """Whether a value of JSON is sealed: also after opening, if who opened it had not the key."""
    return isinstance(value, Mapping) and value.keys() == {KEY} and isinstance(value[KEY], str)


def is_sealed_json(encoded: bytes) -> bool:
    """Whether JSON is that of a sealed value."""
    return _NAME in encoded[:64] and is_sealed(_parsed(encoded))


def marked(kept: bytes) -> str:
    """Return what a codec has made as the text under the name."""
    return base64.b64encode(kept).decode()


def marked_json(kept: bytes) -> bytes:
    """Return what a codec has made as JSON."""
    return _START + base64.b64encode(kept) + b'"}'


def unmarked(text: str) -> bytes:
    """Return what a codec has made. Raises ValueError if that was changed."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it is no base64") from error


def _parsed(encoded: bytes) -> Any:
    try:
        return json.loads(encoded)
    except ValueError:
        return None
