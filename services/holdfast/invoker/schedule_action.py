"""What a schedule starts, checked at the door and made at each time; the one place that knows its kinds."""

from datetime import UTC, datetime
from typing import Final

from holdfast.invoker.envelope import Violations, read_envelope
from holdfast.kit.errors import NotYetAvailable
from holdfast.ledger.schedule_row import Schedule
from holdfast.ledger.values import Invocation
from holdfast.v1 import run_pb2, schedule_pb2

TIME_KEY: Final = "scheduled_time"
_NOW: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EMPTY: Final = ("run_id", "idempotency_key")
_UNSET: Final = ("parent", "not_before", "wait")


def check_action(
    action: schedule_pb2.ScheduleAction, *, tenant: str, max_attempts: int, wrong: Violations
) -> str:
    """Check what a schedule starts; return the intent it starts.

    `wrong` may hold what is wrong around it: raises InvalidField with all of it, TenantMismatch, and
    NotYetAvailable for a batch.
    """
    kind = action.WhichOneof("action")
    if kind == "batch":
        raise NotYetAvailable("Schedules that start a batch (action.batch) are not served by this release.")
    if kind is None:
        wrong.add("schedule.action", "must say what it starts")
        wrong.settle()
    nested = wrong.within("schedule.action.run.")
    for field in _EMPTY:
        if getattr(action.run, field):
            nested.add(field, "must be empty: each time has its own")
    for field in _UNSET:
        if action.run.HasField(field):  # type: ignore[arg-type]  # each is a message of it
            nested.add(field, "must be empty: the schedule says when, and nobody waits")
    _invocation(action, tenant, _NOW, "key", max_attempts=max_attempts, wrong=nested)
    return action.run.intent


class Starting:
    """Makes the runs of schedules; the ledger's `Starter`."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts

    def __call__(self, schedule: Schedule, time: datetime, key: str) -> Invocation:
        """Return the run of a schedule for a time. Raises the Fault that refuses it."""
        stored = schedule_pb2.Schedule.FromString(schedule.wanted.definition)
        return _invocation(
            stored.action,
            schedule.wanted.tenant,
            time,
            key,
            max_attempts=self._max_attempts,
            wrong=Violations(),
        )


def _invocation(
    action: schedule_pb2.ScheduleAction,
    tenant: str,
    time: datetime,
    key: str,
    *,
    max_attempts: int,
    wrong: Violations,
) -> Invocation:
    request = type(action.run)()
    request.CopyFrom(action.run)
    request.idempotency_key = key
    for field in (*_UNSET, "run_id"):
        request.ClearField(field)
    if TIME_KEY not in request.payload.fields:
        request.payload.fields[TIME_KEY].string_value = (
            time.astimezone(UTC).isoformat().replace("+00:00", "Z")
        )
    return read_envelope(
        request, tenant=tenant, shape=run_pb2.SHAPE_WORKER, max_attempts=max_attempts, wrong=wrong
    )
