"""JSON from outside, read so that what comes of it can be a payload; what cannot be is refused."""

import json
import math
from typing import Any, Final

from holdfast.edge.fault import Malformed

MOST_DEEP: Final = 30
_MOST_EXACT: Final = 2**53


def parsed(text: bytes) -> Any:
    """Return the value of a JSON text. Whole numbers that a double cannot hold come as text, digit by digit.

    Raises `Malformed`.
    """
    try:
        value = json.loads(text, parse_int=_whole, parse_constant=_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise Malformed("The body is not JSON.", "body") from error
    _check(value, 1)
    return value


def _whole(digits: str) -> int | str:
    if len(digits) > 20:  # noqa: PLR2004 - none so long is exact
        return digits
    number = int(digits)
    return number if abs(number) <= _MOST_EXACT else digits


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check(value: Any, depth: int) -> None:
    if depth > MOST_DEEP:
        raise Malformed(f"The body is nested deeper than {MOST_DEEP} levels.", "body")
    match value:
        case str():
            _check_text(value)
        case float():
            if not math.isfinite(value):
                raise Malformed("The body has a number that is too large.", "body")
        case dict():
            for key, one in value.items():
                _check_text(key)
                _check(one, depth + 1)
        case list():
            for one in value:
                _check(one, depth + 1)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Malformed("The body has a NUL character.", "body")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Malformed("The body has half of a surrogate pair.", "body") from error
