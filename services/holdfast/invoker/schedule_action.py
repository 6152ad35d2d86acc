"""What a schedule starts, checked at the door and made at each time; the one place that knows its kinds."""

from datetime import UTC, datetime
from typing import Final

from holdfast.invoker.batch_spec import read_spec
from holdfast.invoker.envelope import Violations, go_on_in_trace, read_envelope
from holdfast.invoker.item_source import ItemSources
from holdfast.kit.telemetry import span
from holdfast.ledger.batch import NewBatch
from holdfast.ledger.schedule_row import Schedule
from holdfast.ledger.values import Invocation
from holdfast.v1 import batch_pb2, invoker_service_pb2, run_pb2, schedule_pb2

TIME_KEY: Final = "scheduled_time"
_NOW: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EMPTY: Final = ("run_id", "idempotency_key")
_UNSET: Final = ("parent", "not_before", "wait")


class Starting:
    """Makes the runs and the batches of schedules; the ledger's `Starter`."""

    def __init__(self, max_attempts: int, sources: ItemSources) -> None:
        self._max_attempts = max_attempts
        self._sources = sources

    def __call__(self, schedule: Schedule, time: datetime, key: str) -> Invocation | NewBatch:
        """Return what a schedule starts for a time. Raises the Fault that refuses it.

        It goes on in the trace of this firing: that of the call that asks for it, or one of its own.
        """
        wanted = schedule.wanted
        action = schedule_pb2.Schedule.FromString(wanted.definition).action
        about = {span.TENANT: wanted.tenant, span.SCHEDULE: wanted.name, span.SCHEDULED_TIME: _text(time)}
        with span.within(span.start("fire", attributes=about)):
            if action.WhichOneof("action") == "batch":
                return self._batch(action.batch, wanted.tenant, time, key, name=wanted.name)
            return self._run(action.run, wanted.tenant, time, key)

    def check(self, action: schedule_pb2.ScheduleAction, *, name: str, tenant: str, wrong: Violations) -> str:
        """Check what a schedule of a name is to start; return the intent that it is for.

        `wrong` may hold what is wrong around it: raises InvalidField with all of it, and TenantMismatch.
        """
        kind = action.WhichOneof("action")
        if kind is None:
            wrong.add("schedule.action", "must say what it starts")
            wrong.settle()
        if kind == "batch":
            self._check_batch(action.batch, name, tenant, wrong.within("schedule.action.batch."))
            return action.batch.invocation.intent
        self._check_run(action.run, tenant, wrong.within("schedule.action.run."))
        return action.run.intent

    def _check_run(self, run: invoker_service_pb2.InvokeRequest, tenant: str, wrong: Violations) -> None:
        for field in _EMPTY:
            if getattr(run, field):
                wrong.add(field, "must be empty: each time has its own")
        for field in _UNSET:
            if run.HasField(field):  # type: ignore[arg-type]  # each is a message of it
                wrong.add(field, "must be empty: the schedule says when, and nobody waits")
        self._run(run, tenant, _NOW, "key", wrong)

    def _check_batch(self, spec: batch_pb2.BatchSpec, name: str, tenant: str, wrong: Violations) -> None:
        if spec.idempotency_key:
            wrong.add("idempotency_key", "must be empty: each time has its own")
        if not spec.HasField("source"):
            wrong.add("source", "must be given: nobody sends the items of what starts by itself")
        self._batch(spec, tenant, _NOW, "key", name=name, wrong=wrong)

    def _run(
        self,
        run: invoker_service_pb2.InvokeRequest,
        tenant: str,
        time: datetime,
        key: str,
        wrong: Violations | None = None,
    ) -> Invocation:
        request = invoker_service_pb2.InvokeRequest()
        request.CopyFrom(run)
        request.idempotency_key = key
        for field in (*_UNSET, "run_id"):
            request.ClearField(field)
        _tell_time(request, time)
        go_on_in_trace(request)
        return read_envelope(
            request,
            tenant=tenant,
            shape=run_pb2.SHAPE_WORKER,
            max_attempts=self._max_attempts,
            wrong=wrong,
        )

    def _batch(
        self,
        wanted: batch_pb2.BatchSpec,
        tenant: str,
        time: datetime,
        key: str,
        *,
        name: str,
        wrong: Violations | None = None,
    ) -> NewBatch:
        spec = batch_pb2.BatchSpec()
        spec.CopyFrom(wanted)
        spec.idempotency_key = key
        spec.start_when_uploaded = True
        spec.display_name = spec.display_name or name
        _tell_time(spec.invocation, time)
        source = self._sources.of(spec.source.source, tenant)
        if source is not None and TIME_KEY in source.parameters and TIME_KEY not in spec.source.parameters:
            spec.source.parameters[TIME_KEY] = _text(time)
        return read_spec(spec, tenant=tenant, sources=self._sources, schedule=name, wrong=wrong)


def _tell_time(request: invoker_service_pb2.InvokeRequest, time: datetime) -> None:
    if TIME_KEY not in request.payload.fields:
        request.payload.fields[TIME_KEY].string_value = _text(time)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
