"""Schedules between plain values and the contract's messages."""

from holdfast.client.number import FireOrigin, FireResult, OverlapPolicy
from holdfast.client.schedule import Fire, Schedule, Timing
from holdfast.client.wire_batch import spec_message
from holdfast.client.wire_invocation import invocation_of, spec_of
from holdfast.client.wire_run import envelope
from holdfast.client.wire_value import duration_of, seconds_of, stamp_of, time_of
from holdfast.v1 import schedule_pb2


def schedule_message(schedule: Schedule) -> schedule_pb2.Schedule:
    """Return a schedule as the contract has it. Raises ValueError for what no schedule can hold."""
    message = schedule_pb2.Schedule(
        name=schedule.name,
        timing=timing_message(schedule.timing),
        overlap=schedule_pb2.OverlapPolicy.ValueType(schedule.overlap),
        labels=schedule.labels,
        paused=schedule.paused,
        pause_reason=schedule.pause_reason,
    )
    if schedule.run is not None and schedule.batch is None:
        message.action.run.CopyFrom(envelope(schedule.run))
    elif schedule.batch is not None and schedule.run is None:
        message.action.batch.CopyFrom(spec_message(schedule.batch))
    else:
        raise ValueError("A schedule starts a run or a batch.")
    if schedule.catch_up is not None:
        message.catch_up_window.CopyFrom(duration_of(schedule.catch_up))
    return message


def timing_message(timing: Timing) -> schedule_pb2.ScheduleTiming:
    """Return a rule. Raises ValueError unless it is exactly one."""
    if sum((bool(timing.cron), timing.every is not None, timing.at is not None)) != 1:
        raise ValueError("A schedule's timing is one of cron, every and at.")
    message = schedule_pb2.ScheduleTiming()
    if timing.every is not None:
        message.interval.interval.CopyFrom(duration_of(timing.every))
        if timing.anchor is not None:
            message.interval.anchor_time.CopyFrom(stamp_of(timing.anchor))
    elif timing.at is not None:
        message.one_shot_time.CopyFrom(stamp_of(timing.at))
    else:
        message.cron.expression = timing.cron
        message.cron.time_zone = timing.zone
    if timing.start is not None:
        message.start_time.CopyFrom(stamp_of(timing.start))
    if timing.end is not None:
        message.end_time.CopyFrom(stamp_of(timing.end))
    if timing.jitter:
        message.jitter.CopyFrom(duration_of(timing.jitter))
    return message


def schedule_of(message: schedule_pb2.Schedule) -> Schedule:
    """Return a schedule."""
    return Schedule(
        name=message.name,
        timing=_timing_of(message.timing),
        run=invocation_of(message.action.run) if message.action.HasField("run") else None,
        batch=spec_of(message.action.batch) if message.action.HasField("batch") else None,
        overlap=OverlapPolicy(message.overlap),
        catch_up=seconds_of(message.catch_up_window) if message.HasField("catch_up_window") else None,
        labels=dict(message.labels),
        paused=message.paused,
        pause_reason=message.pause_reason,
        next_time=time_of(message.next_time),
        recent_fires=tuple(fire_of(fire) for fire in message.recent_fires),
        create_time=time_of(message.create_time),
        update_time=time_of(message.update_time),
    )


def fire_of(message: schedule_pb2.ScheduleFire) -> Fire:
    """Return what came of one time."""
    return Fire(
        scheduled_time=time_of(message.scheduled_time),
        fire_time=time_of(message.fire_time),
        origin=FireOrigin(message.origin),
        result=FireResult(message.result),
        run_id=message.run_id,
        batch_id=message.batch_id,
        message=message.message,
    )


def _timing_of(message: schedule_pb2.ScheduleTiming) -> Timing:
    every = message.interval
    return Timing(
        cron=message.cron.expression,
        zone=message.cron.time_zone,
        every=seconds_of(every.interval) if message.HasField("interval") else None,
        anchor=time_of(every.anchor_time),
        at=time_of(message.one_shot_time),
        start=time_of(message.start_time),
        end=time_of(message.end_time),
        jitter=seconds_of(message.jitter),
    )
