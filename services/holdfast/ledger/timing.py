"""The times of a schedule in order, by whichever rule it has."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from holdfast.ledger.cron import after_cron, zone_of
from holdfast.ledger.domain.schedule import Timing, after_interval, delay

_INSTANT: Final = timedelta(microseconds=1)


def next_time(timing: Timing, after: datetime) -> datetime | None:
    """Return the first time later than `after`, without jitter; None if there is none."""
    if timing.start is not None:
        after = max(after, timing.start - _INSTANT)
    if timing.interval is not None:
        assert timing.anchor is not None, "an interval is anchored before it is asked"
        found = after_interval(timing.interval, timing.anchor, after)
    elif timing.at is not None:
        found = timing.at if timing.at > after else None
    else:
        found = after_cron(timing.cron, zone_of(timing.zone), after)
    return None if found is None or (timing.end is not None and found >= timing.end) else found


def times(timing: Timing, start: datetime, end: datetime | None = None) -> Iterator[datetime]:
    """Yield the times from `start` on and before `end`, without jitter."""
    found = next_time(timing, start - _INSTANT)
    while found is not None and (end is None or found < end):
        yield found
        found = next_time(timing, found)


def due_time(schedule_id: UUID, timing: Timing, time: datetime) -> datetime:
    """Return when a time is due, its jitter included."""
    if not timing.jitter:
        return time
    following = next_time(timing, time)
    distance = None if following is None else following - time
    try:
        return time + delay(schedule_id.bytes, time, timing.jitter, distance)
    except OverflowError:
        return time.astimezone(UTC)
