"""What people type into forms, read into values; what cannot be read is named in one sentence."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from holdfast.client.errors import Violation

_Read = TypeVar("_Read")
_Other = TypeVar("_Other")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
MARKED: Final = "Nothing was saved: what is marked below is not right."
"""What a form says on top when its fields say the rest."""


class Mistyped(ValueError):  # noqa: N818 - what happened, as the names of the faults have it
    """Something cannot be read; says what, for the page, and `at` what is wrong at which field."""

    def __init__(self, text: str, at: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.at = dict(at or {})


class Reading:
    """Reads the fields of a form, all of them before it complains."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = given
        self._wrong: dict[str, str] = {}

    def take(
        self, name: str, title: str, read: Callable[[str, str], _Read], otherwise: _Other
    ) -> _Read | _Other:
        """Return what is typed into a field, or something otherwise if nothing is or it cannot be read."""
        if not self.given[name]:
            return otherwise
        try:
            return read(self.given[name], title)
        except Mistyped as error:
            self.miss(name, str(error))
            return otherwise

    def miss(self, name: str, text: str) -> None:
        """Note what is wrong with a field, unless something is already."""
        self._wrong.setdefault(name, text)

    def settle(self) -> None:
        """Raise `Mistyped` with all that is wrong, if anything is."""
        if self._wrong:
            raise Mistyped(" ".join(self._wrong.values()), self._wrong)


def at_fields(violations: Iterable[Violation], places: Mapping[str, str]) -> dict[str, str]:
    """Return what a refused call says about fields of its form; `places` are paths of the contract.

    The longest path that is a part of a violation's counts; what is at no field is left out.
    """
    found: dict[str, str] = {}
    for each in violations:
        path = f".{each.field}."
        place = max((name for name in places if f".{name}." in path), key=len, default=None)
        if place is not None:
            found.setdefault(places[place], f"This {each.description}.")
    return found


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


def share(text: str, title: str) -> float:
    """Return a share from 0 to 1, also typed as per cent."""
    number, percent, _ = text.partition("%")
    try:
        found = float(number) / (100 if percent else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise Mistyped(f"“{title}” must be a share from 0 to 1, as 0.98 or 98 %.")
    return found


def rate(text: str, title: str) -> float:
    """Return how many a second; 0: as many as are taken."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise Mistyped(f"“{title}” must be a number.")
    return found
