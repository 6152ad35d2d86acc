"""Schedules as people see them at a terminal."""

from datetime import UTC

from holdfast.cli.output import fields, json_line, table
from holdfast.cli.target import Target
from holdfast.client import Fire, Schedule, Timing


def show(target: Target, schedule: Schedule) -> None:
    """Show a schedule, and what came of its latest times."""
    if target.form == "json":
        json_line(schedule)
        return
    source = schedule.batch and schedule.batch.source
    fields(
        [
            ("name", schedule.name),
            ("intent", schedule.invocation.intent),
            ("starts", batch_of(schedule)),
            ("with", dict(source.parameters) if source else ""),
            ("payload", schedule.invocation.payload),
            ("when", rule_of(schedule.timing)),
            ("next", schedule.next_time or none_of(schedule)),
            ("overlap", schedule.overlap),
            ("catches up", f"{schedule.catch_up or 0:g} s"),
            ("jitter", f"{schedule.timing.jitter:g} s" if schedule.timing.jitter else ""),
            ("labels", schedule.labels),
            ("paused", (schedule.pause_reason or "yes") if schedule.paused else ""),
        ]
    )
    if schedule.recent_fires:
        rows = [_row(fire) for fire in schedule.recent_fires]
        table(["TIME", "RESULT", "ORIGIN", "BATCH" if schedule.batch else "RUN"], rows, empty="")


def _row(fire: Fire) -> tuple[object, ...]:
    started = fire.run_id or fire.batch_id
    return fire.scheduled_time, fire.result, fire.origin, started or fire.message


def batch_of(schedule: Schedule) -> str:
    """Say what batch it starts; empty if it starts a run."""
    if schedule.batch is None:
        return ""
    return f"a batch of {schedule.batch.source.source if schedule.batch.source else 'nothing'}"


def rule_of(timing: Timing) -> str:
    """Say when."""
    if timing.cron:
        return f"{timing.cron} {timing.zone or 'UTC'}"
    if timing.every is not None:
        return f"every {timing.every:g} s"
    return "" if timing.at is None else f"once {timing.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def none_of(schedule: Schedule) -> str:
    """Say why there is no next time."""
    return "paused" if schedule.paused else "never"


def latest_of(schedule: Schedule) -> str:
    """Say what came of the latest time."""
    return schedule.recent_fires[0].result.name if schedule.recent_fires else ""
