"""Schedules between the contract's messages and the ledger's values."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.invoker.envelope import Violations
from holdfast.invoker.schedule_action import Starting
from holdfast.kit.rpc.run import timestamp
from holdfast.ledger.cron import check, zone_of
from holdfast.ledger.domain.schedule import Overlap, Timing
from holdfast.ledger.schedule_row import Definition, Fire, Schedule
from holdfast.ledger.timing import next_time
from holdfast.v1 import schedule_pb2

_CATCH_UP: Final = timedelta(minutes=1)
_LONGEST: Final = timedelta(days=31)
_INTERVALS: Final = (timedelta(seconds=1), timedelta(days=3660))
_COMPARED: Final = 50
"""Times of a cron expression whose distances its jitter is held against."""
_SERVERS: Final = ("next_time", "recent_fires", "create_time", "update_time")


def read_schedule(message: schedule_pb2.Schedule, *, tenant: str, starting: Starting) -> Definition:
    """Check a schedule and return it as the ledger takes it. Raises InvalidField naming each wrong field."""
    wrong = Violations()
    read_name(wrong, "schedule.name", message.name)
    wrong.text("schedule.pause_reason", message.pause_reason, limit=1000)
    wrong.labels("schedule.labels", message.labels)
    timing = read_timing(wrong, "schedule.timing", message.timing)
    overlap = read_overlap(wrong, "schedule.overlap", message.overlap)
    catch_up = _CATCH_UP
    if message.HasField("catch_up_window"):
        catch_up = _duration(
            wrong, "schedule.catch_up_window", message.catch_up_window, timedelta(), _LONGEST
        )
    intent = starting.check(message.action, name=message.name, tenant=tenant, wrong=wrong)
    wrong.settle()
    assert timing is not None, "settle() raised otherwise"
    return Definition(
        tenant=tenant,
        name=message.name,
        definition=_kept(message).SerializeToString(deterministic=True),
        fingerprint=_fingerprint(message, timing, overlap, catch_up),
        timing=timing,
        intent=intent,
        labels=dict(message.labels),
        overlap=overlap or Overlap.SKIP,
        catch_up=catch_up,
        paused=message.paused,
        pause_reason=message.pause_reason if message.paused else "",
    )


def read_name(wrong: Violations, field: str, name: str) -> str:
    """Check a schedule's name."""
    if not name:
        wrong.add(field, "must not be empty")
    elif not name.isprintable():
        wrong.add(field, "must be printable")
    wrong.text(field, name)
    return name


def read_overlap(wrong: Violations, field: str, value: int) -> Overlap | None:
    """Check an overlap policy; None if it is left open."""
    if value in schedule_pb2.OverlapPolicy.values():
        return Overlap(value) if value else None
    wrong.add(field, "is not an overlap policy")
    return None


def read_timing(wrong: Violations, field: str, message: schedule_pb2.ScheduleTiming) -> Timing | None:
    """Check a rule; None if it is wrong."""
    here = wrong.within(f"{field}.")
    found: dict[str, Any] = {
        name: read_time(here, f"{name}_time", getattr(message, f"{name}_time"))
        for name in ("start", "end")
        if message.HasField(f"{name}_time")  # type: ignore[arg-type]  # both are fields
    }
    rule = message.WhichOneof("rule")
    sound = True
    if rule == "cron":
        sound = _cron(here, message.cron, found)
    elif rule == "interval":
        sound = _interval(here, message.interval, found)
    elif rule == "one_shot_time":
        found["at"] = read_time(here, "one_shot_time", message.one_shot_time)
        sound = found["at"] is not None
    else:
        wrong.add(field, "must have a rule: cron, interval or one_shot_time")
        return None
    if message.HasField("jitter"):
        found["jitter"] = _duration(here, "jitter", message.jitter, timedelta(), _LONGEST)
    if not sound:
        return None
    timing = Timing(**found)
    if timing.start is not None and timing.end is not None and timing.start >= timing.end:
        here.add("end_time", "must be later than start_time")
    _check_jitter(here, timing)
    return timing


def read_time(wrong: Violations, field: str, stamp: Timestamp) -> datetime | None:
    """Check a time."""
    try:
        moment: datetime = stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        wrong.add(field, "is not a time")
        return None
    return moment


def _cron(wrong: Violations, message: schedule_pb2.CronTiming, found: dict[str, Any]) -> bool:
    sound = True
    for field, value, checked in (
        ("cron.expression", message.expression, check),
        ("cron.time_zone", message.time_zone, zone_of),
    ):
        try:
            checked(value)
        except ValueError as error:
            wrong.add(field, str(error))
            sound = False
    found["cron"] = " ".join(message.expression.split())
    found["zone"] = message.time_zone or "UTC"
    return sound


def _interval(wrong: Violations, message: schedule_pb2.IntervalTiming, found: dict[str, Any]) -> bool:
    interval = _duration(wrong, "interval.interval", message.interval, *_INTERVALS)
    found["interval"] = interval
    if message.HasField("anchor_time"):
        found["anchor"] = read_time(wrong, "interval.anchor_time", message.anchor_time)
    return bool(interval)


def _check_jitter(wrong: Violations, timing: Timing) -> None:
    if not timing.jitter or timing.at is not None:
        return
    shortest = timing.interval
    if shortest is None:
        at = next_time(timing, datetime.now(UTC))
        for _ in range(_COMPARED):
            following = at and next_time(timing, at)
            if at is None or following is None:
                break
            shortest = min(shortest or following - at, following - at)
            at = following
    if shortest is not None and timing.jitter >= shortest:
        wrong.add("jitter", "must be shorter than the distance between times")


def _duration(
    wrong: Violations, field: str, message: Duration, least: timedelta, most: timedelta
) -> timedelta:
    try:
        found: timedelta = message.ToTimedelta()
    except (ValueError, OverflowError):
        found = timedelta(-1)
    if not least <= found <= most:
        wrong.add(field, f"must be from {least.total_seconds():g} s to {most.days} days")
        return timedelta()
    return found


def _kept(message: schedule_pb2.Schedule) -> schedule_pb2.Schedule:
    kept = schedule_pb2.Schedule()
    kept.CopyFrom(message)
    kept.DiscardUnknownFields()  # what nobody has checked is not kept
    for field in (*_SERVERS, "paused", "pause_reason"):
        kept.ClearField(field)
    return kept


def _fingerprint(
    message: schedule_pb2.Schedule, timing: Timing, overlap: Overlap | None, catch_up: timedelta
) -> bytes:
    """Hash what must be equal for two schedules to be the same; whether it is paused is not part of it."""
    same = _kept(message)
    for field in ("timing", "overlap", "catch_up_window"):
        same.ClearField(field)
    told = repr((timing.to_plain(), int(overlap or Overlap.SKIP), catch_up))
    return hashlib.sha256(told.encode() + b"\0" + same.SerializeToString(deterministic=True)).digest()


def schedule_message(schedule: Schedule) -> schedule_pb2.Schedule:
    """Return a schedule as it stands."""
    message = schedule_pb2.Schedule.FromString(schedule.wanted.definition)
    message.overlap = schedule_pb2.OverlapPolicy.ValueType(schedule.wanted.overlap)
    message.catch_up_window.FromTimedelta(schedule.wanted.catch_up)
    message.paused = schedule.wanted.paused
    message.pause_reason = schedule.wanted.pause_reason
    anchor = schedule.timing.anchor
    if anchor is not None:
        message.timing.interval.anchor_time.CopyFrom(timestamp(anchor))
    if schedule.due_time is not None and not schedule.wanted.paused:
        message.next_time.CopyFrom(timestamp(schedule.due_time))
    message.recent_fires.extend(fire_message(fire) for fire in schedule.fires)
    message.create_time.CopyFrom(timestamp(schedule.create_time))
    message.update_time.CopyFrom(timestamp(schedule.update_time))
    return message


def fire_message(fire: Fire) -> schedule_pb2.ScheduleFire:
    """Return what came of one time."""
    message = schedule_pb2.ScheduleFire(
        scheduled_time=timestamp(fire.scheduled_time),
        fire_time=timestamp(fire.fire_time),
        origin=schedule_pb2.FireOrigin.ValueType(fire.origin),
        result=schedule_pb2.FireResult.ValueType(fire.result),
        message=fire.message,
    )
    if fire.run_id is not None:
        message.run_id = str(fire.run_id)
    if fire.batch_id is not None:
        message.batch_id = str(fire.batch_id)
    return message
