"""A page token says where the next page starts; to clients it is opaque."""

import base64
import binascii
from typing import Final

from holdfast.kit.rpc.violation import Violations

_DEFAULT: Final = 50
_MOST: Final = 500


def size_of(violations: Violations, page_size: int) -> int:
    """Check a page size; 0 takes the default."""
    return violations.number("page_size", page_size, default=_DEFAULT, most=_MOST)


def token_of(kind: str, cursor: str) -> str:
    """Make a token of a cursor; `kind` keeps tokens of one list out of another."""
    return base64.urlsafe_b64encode(f"{kind}:{cursor}".encode()).decode().rstrip("=")


def cursor_of(violations: Violations, kind: str, token: str) -> str:
    """Read the cursor in a token; empty if there is none."""
    if not token:
        return ""
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    found, _, cursor = text.partition(":")
    if found != kind or not cursor or not cursor.isprintable():
        violations.add("page_token", "must be the next_page_token of a page before")
        return ""
    return cursor
