"""Times by a cron expression, across changes of the clock as the contract promises.

An expression on fixed hours goes by the clock on the wall: a time in a gap is the first moment after it, a
time that comes twice is the first. One whose hour begins with `*` goes by what passes: it fires at every
moment at which the wall's clock matches, be there none or two of an hour. cronsim knows the expressions; it
is only ever asked about clocks that do not change, for its own rule leaves out `*/5 2 * * *` in a gap.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_FIELDS: Final = 5
_FIELD: Final = re.compile(r"[0-9A-Za-z*,/-]+\Z")
_BEYOND: Final = re.compile(r"(?<![A-Z])L|LW", re.IGNORECASE)  # cronsim's last days, which we do not promise
_SPAN_OF_ONE: Final = re.compile(r"(?<![\w-])(\w+)-\1/\d+(?!\w)")  # cronsim takes its step for an open range
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
_LONGEST: Final = 255
_SOME_DAY: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - a clock on some wall


def zone_of(name: str) -> tzinfo:
    """Return a zone of the IANA database, UTC for none. Raises ValueError in one sentence."""
    if name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a name of the IANA time zone database, as Europe/Berlin") from None


@lru_cache(maxsize=4096)
def check(expression: str) -> None:
    """Raise ValueError, in one sentence, for what is not an expression or has no time at all."""
    parts = expression.split()
    if len(parts) != _FIELDS or len(expression) > _LONGEST:
        raise ValueError("must be five fields: minute, hour, day of month, month, day of week")
    if not all(_FIELD.match(part) for part in parts) or _BEYOND.search(parts[2]) or _BEYOND.search(parts[4]):
        raise ValueError("must be of numbers, '*', ',', '-', '/' and English names of three letters")
    try:
        found = next(CronSim(expression, _SOME_DAY), None)
    except CronSimError as error:
        raise ValueError(f"is malformed: {str(error).lower()}") from None
    except (AssertionError, ValueError, TypeError):
        raise ValueError("is malformed") from None
    if found is None:
        raise ValueError("matches no time at all")


def after_cron(expression: str, zone: tzinfo, after: datetime) -> datetime | None:
    """Return the expression's first time later than `after`, in UTC; None if there is none in 50 years."""
    expression = _SPAN_OF_ONE.sub(r"\1", expression)
    try:
        if zone is UTC:
            found = next(CronSim(expression, after.astimezone(UTC).replace(tzinfo=None)), None)
            return found and found.replace(tzinfo=UTC)
        if expression.split()[1].startswith("*"):
            return _passing(expression, zone, after)
        return _on_the_wall(expression, zone, after)
    except (OverflowError, ValueError):
        return None  # beyond the last year there is


def _on_the_wall(expression: str, zone: tzinfo, after: datetime) -> datetime | None:
    for wall in CronSim(expression, after.astimezone(zone).replace(tzinfo=None, fold=0)):
        moment = _first_moment(wall, zone)
        if moment > after:
            return moment
    return None


def _first_moment(wall: datetime, zone: tzinfo) -> datetime:
    """Return when a clock in the zone first shows `wall`, or first shows more."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if _wall(moment, zone) == wall:
        return moment
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _change(before, moment, zone)


def _passing(expression: str, zone: tzinfo, after: datetime) -> datetime | None:
    """Follow the clock as it stands until the next change, then as it stands from there."""
    while True:
        wall = _wall(after, zone)
        offset = wall - after.astimezone(UTC).replace(tzinfo=None)
        found = next(CronSim(expression, wall), None)
        if found is None:
            return None
        moment = (found - offset).replace(tzinfo=UTC)
        change = _next_change(after, moment, zone)
        if change is None:
            return moment
        after = change - _SECOND  # the change itself may match, on its new clock
        wall = _wall(change, zone)
        if next(CronSim(expression, wall - _SECOND), None) == wall:
            return change
        after = change


def _next_change(after: datetime, until: datetime, zone: tzinfo) -> datetime | None:
    """Return the first change of the clock later than `after` and not later than `until`."""
    at = after
    while at < until:
        later = min(at + _DAY, until)
        if later.astimezone(zone).utcoffset() != at.astimezone(zone).utcoffset():
            return _change(at, later, zone)
        at = later
    return None


def _change(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """Return the moment between two at which the clock changes; whole seconds."""
    low, high = int(before.timestamp()), int(after.timestamp())
    new = after.astimezone(zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == new:
            high = middle
        else:
            low = middle
    return datetime.fromtimestamp(high, UTC)


def _wall(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)
