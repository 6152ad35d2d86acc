"""When a schedule's times are and what becomes of one: rules without a clock, decided on what they are told.

due ──▶ late beyond the window ─▶ SKIPPED_MISSED
──▶ late within it ─▶ QUEUED (made up for, one after the other)
──▶ on time ─▶ STARTED, or as the overlap policy says while the last one has not ended
"""

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Final

PUNCTUAL: Final = timedelta(seconds=5)
"""A time that fires no later than this after it was due was not missed."""
_MICROSECOND: Final = timedelta(microseconds=1)
_TIMES: Final = ("anchor", "at", "start", "end")


class Overlap(IntEnum):
    """What happens while the last one has not ended: the numbers of `holdfast.v1.OverlapPolicy`."""

    SKIP = 1
    QUEUE = 2
    CANCEL_OLDER = 3


class Origin(IntEnum):
    """Why a schedule fired: the numbers of `holdfast.v1.FireOrigin`."""

    DUE = 1
    CATCH_UP = 2
    TRIGGER = 3
    BACKFILL = 4


class Result(IntEnum):
    """What came of a time: the numbers of `holdfast.v1.FireResult`."""

    STARTED = 1
    QUEUED = 2
    SKIPPED_OVERLAP = 3
    SKIPPED_MISSED = 4
    FAILED = 5


class Step(IntEnum):
    """What to do about one time now."""

    START = 1
    WAIT = 2
    SKIP = 3
    CANCEL_AND_START = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """By what rule a schedule falls due: exactly one of `cron`, `interval` and `at`."""

    cron: str = ""
    zone: str = "UTC"
    interval: timedelta | None = None
    anchor: datetime | None = None
    at: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    jitter: timedelta = timedelta()

    def anchored(self, moment: datetime) -> "Timing":
        """Return it with an interval counted from `moment`, unless it says from when."""
        return self if self.interval is None or self.anchor is not None else replace(self, anchor=moment)

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON values: times in ISO 8601, durations in microseconds."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> "Timing":
        """Read what `to_plain` has written."""
        values = dict(plain)
        for name in _TIMES:
            values[name] = values[name] and datetime.fromisoformat(values[name])
        interval = values["interval"]
        values["interval"] = None if interval is None else timedelta(microseconds=interval)
        values["jitter"] = timedelta(microseconds=values["jitter"])
        return Timing(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value // _MICROSECOND if isinstance(value, timedelta) else value


def after_interval(interval: timedelta, anchor: datetime, after: datetime) -> datetime | None:
    """Return the first of `anchor` ± n · `interval` that is later than `after`; None beyond all calendars."""
    try:
        return anchor + ((after - anchor) // interval + 1) * interval
    except OverflowError:
        return None


def delay(schedule: bytes, time: datetime, jitter: timedelta, distance: timedelta | None) -> timedelta:
    """Return by how much a time is delayed: the same each time it is asked, and never as far as the next."""
    room = jitter if distance is None else min(jitter, distance)
    told = blake2b(time.astimezone(UTC).isoformat().encode(), key=schedule, digest_size=8).digest()
    return timedelta(microseconds=int.from_bytes(told) * (room // _MICROSECOND) >> 64)


def missed(due: datetime, now: datetime) -> bool:
    """Say whether nobody was there when a time was due."""
    return now - due > PUNCTUAL


def made_up_for(due: datetime, now: datetime, window: timedelta) -> bool:
    """Say whether a time that was missed still fires."""
    return now - due <= max(window, PUNCTUAL)


def overlapping(policy: Overlap, *, busy: bool, waiting: bool) -> Step:
    """Decide about a time: `busy` while the last one has not ended, `waiting` if another waits for that."""
    if not busy:
        return Step.START
    if policy is Overlap.CANCEL_OLDER:
        return Step.CANCEL_AND_START
    return Step.WAIT if policy is Overlap.QUEUE and not waiting else Step.SKIP


def look_again(waited: timedelta) -> timedelta:
    """Return when to look again whether the older one has ended: a tenth of the wait, from 1 s to 5 s."""
    return min(max(waited / 10, timedelta(seconds=1)), timedelta(seconds=5))
