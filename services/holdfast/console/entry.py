"""What people type into forms, read into values; what cannot be read is named in one sentence."""

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


class Mistyped(ValueError):  # noqa: N818 - what happened, as the names of the faults have it
    """Something cannot be read; says what, for the page."""


def pairs(text: str, title: str) -> dict[str, str]:
    """Return `team=credit, stage=live` as names and values; a pair with a comma in it stands in quotes."""
    found = {}
    (parts,) = csv.reader([" ".join(text.splitlines())], skipinitialspace=True)
    for part in filter(None, map(str.strip, parts)):
        name, equals, value = map(str.strip, part.partition("="))
        if not equals or not name:
            raise Mistyped(f"“{title}” must be name=value, more of them with commas between.")
        found[name] = value
    return found


def words(pairs: Mapping[str, str]) -> str:
    """Return names and values as `pairs` reads them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([f"{name}={value}" for name, value in pairs.items()])
    return line.getvalue()


def seconds(text: str, title: str) -> float:
    """Return a duration: `15m`, `90s`, `1.5h`, `2 d`, or a plain number of seconds."""
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    unit = text.strip()[len(text.strip().rstrip("abcdefghijklmnopqrstuvwxyz")) :]
    try:
        found = float(number) * _UNITS[unit or "s"]
    except (ValueError, KeyError):
        found = -1.0
    if not 0 <= found < float("inf"):
        raise Mistyped(f"“{title}” must be a duration, as 30s, 15m, 2h or 1d.")
    return found


def duration(value: float | None) -> str:
    """Return a duration as `seconds` reads it, in the largest unit that leaves it whole."""
    if value is None:
        return ""
    for unit in ("d", "h", "m"):
        if value >= _UNITS[unit] and value % _UNITS[unit] == 0:
            return f"{value / _UNITS[unit]:.0f}{unit}"
    return f"{Decimal(str(value)).normalize():f}s"  # all of its digits, without an exponent


def moment(text: str, title: str) -> datetime | None:
    """Return a time as browsers send it, in UTC; None for none."""
    if not text.strip():
        return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Mistyped(f"“{title}” must be a time, as 2026-12-24T18:00.") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def stamp(value: datetime | None) -> str:
    """Return a time as a field for times wants it, in UTC."""
    return "" if value is None else value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")


def json_object(text: str, title: str) -> dict[str, Any]:
    """Return a JSON object; an empty text is an empty one."""
    try:
        found = json.loads(text.strip() or "{}")
    except ValueError as error:
        raise Mistyped(f"“{title}” is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise Mistyped(f'“{title}” must be a JSON object, as {{"name": "Ada"}}.')
    return found


def whole(text: str, title: str) -> int:
    """Return a number without a fraction, 0 or more."""
    if not text.strip().isdecimal() or len(text.strip()) > 18:  # noqa: PLR2004 - beyond what the contract takes
        raise Mistyped(f"“{title}” must be a whole number.")
    return int(text)
