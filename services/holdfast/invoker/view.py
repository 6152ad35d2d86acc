"""The ledger's values, as the contract has them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

from holdfast.kit.rpc.payload import fill_value, value_of
from holdfast.kit.rpc.run import failure_message, timestamp
from holdfast.kit.rpc.run import run_message as described
from holdfast.ledger.domain.budget import NOTHING_SPENT
from holdfast.ledger.session_state import SessionView
from holdfast.ledger.values import Admitted, Invocation, RunView, TranscriptRow
from holdfast.v1 import invoker_service_pb2, run_pb2, session_pb2, transcript_pb2

RUNG_MARK: Final = "!^"
"""Under which runners count the events that tell of a rung, as the contract says of `Commit.emitted`."""
_NO_RUNG: Final = (run_pb2.BUDGET_DIMENSION_UNSPECIFIED, run_pb2.BUDGET_DIMENSION_CONTEXT)
"""Of an event that tells of another model or of a shortened context; no rung is taken for these."""


def run_message(view: RunView, *, whole: bool = True) -> run_pb2.Run:
    """Return a run; without payload and result unless `whole`."""
    run = described(view)
    if view.last_failure is not None:
        run.last_failure.CopyFrom(failure_message(view.last_failure))
    if view.outcome is not None:
        outcome = run.outcome
        outcome.status = run_pb2.RunStatus.ValueType(view.outcome.status)
        outcome.exhausted = run_pb2.BudgetDimension.ValueType(view.outcome.exhausted)
        if view.outcome.failure is not None:
            outcome.failure.CopyFrom(failure_message(view.outcome.failure))
        if whole and view.outcome.result is not None:
            fill_value(outcome.result, json.loads(view.outcome.result))
    if whole and view.envelope:
        envelope = invoker_service_pb2.InvokeRequest.FromString(view.envelope)
        if envelope.HasField("payload"):
            run.payload.CopyFrom(envelope.payload)
    return run


def admitted_view(invocation: Invocation, admitted: Admitted) -> RunView:
    """Return a run as it was admitted a moment ago, without asking the ledger."""
    return RunView(
        run_id=admitted.run_id,
        seq=admitted.seq,
        tenant=invocation.tenant,
        user=invocation.user,
        intent=invocation.intent,
        shape=invocation.shape,
        idempotency_key=invocation.idempotency_key,
        correlation_id=invocation.correlation_id,
        session_id=invocation.session_id,
        ordering_key=invocation.ordering_key,
        priority=invocation.priority,
        labels=invocation.labels,
        agent_version=invocation.agent_version,
        status=admitted.status,
        attempt=1 if admitted.lease else 0,
        max_attempts=invocation.max_attempts,
        epoch=1 if admitted.lease else 0,
        limits=admitted.limits,
        usage=NOTHING_SPENT,
        last_sequence=1,
        cancel_requested=False,
        create_time=admitted.create_time,
        start_time=admitted.create_time if admitted.lease else None,
        end_time=None,
        deadline_time=admitted.deadline_time,
        now=admitted.create_time,
        last_failure=None,
        outcome=None,
        envelope=invocation.envelope,
    )


def session_message(view: SessionView) -> session_pb2.Session:
    """Return a session."""
    return session_pb2.Session(
        session_id=view.session_id,
        state=value_message(view.state),
        version=view.version,
        run_id=str(view.run_id),
        create_time=timestamp(view.create_time),
        update_time=timestamp(view.update_time),
    )


def pool_words(pool: str) -> str:
    """Say what a runner must serve to take the runs of a pool."""
    intent, _, version = pool.partition("@")
    return f"a runner that serves {intent}" + (f" at version {version}" if version else "")


def value_message(encoded: bytes) -> struct_pb2.Value:
    """Return JSON text as a Value."""
    return value_of(json.loads(encoded))


def row_events(run_id: str, row: TranscriptRow) -> list[transcript_pb2.RunEvent]:
    """Return the events of one row of the transcript."""
    if row.events is not None:
        return list(transcript_pb2.EventBatch.FromString(row.events).events)
    assert row.note is not None  # the ledger keeps exactly one of both
    return [note_event(run_id, row.first_sequence, row.note)]


def rungs(run_id: str, rows: Iterable[TranscriptRow]) -> list[transcript_pb2.RunEvent]:
    """Return the events that tell of a rung among those rows."""
    told = (event for row in rows for event in row_events(run_id, row) if event.HasField("degraded"))
    return [event for event in told if event.degraded.dimension not in _NO_RUNG]


def note_event(run_id: str, sequence: int, note: Mapping[str, Any]) -> transcript_pb2.RunEvent:
    """Return an event of the platform."""
    event = transcript_pb2.RunEvent(run_id=run_id, sequence=sequence, epoch=note.get("epoch", 0))
    event.time.FromJsonString(note["time"])
    kind = note["kind"]
    if kind == "accepted":
        event.accepted.budget.SetInParent()
        json_format.ParseDict(note.get("budget", {}), event.accepted.budget)
    elif kind == "requeued":
        event.requeued.SetInParent()
        if note.get("failure"):
            json_format.ParseDict(note["failure"], event.requeued.failure)
        if note.get("not_before"):
            event.requeued.not_before.FromJsonString(note["not_before"])
    elif kind == "compensating":
        json_format.ParseDict(note["failure"], event.compensating.cause)
    elif kind == "parked":
        event.parked.SetInParent()
        event.parked.keys.extend(note["keys"])
        if "until" in note:
            event.parked.until.FromJsonString(note["until"])
    elif kind == "cancel_requested":
        event.cancel_requested.reason = note.get("reason") or ""
    elif kind == "ended":
        _ended(event.ended, note)
    else:
        raise ValueError(f"the transcript holds a note of unknown kind {kind!r}")
    return event


def _ended(ended: transcript_pb2.RunEnded, note: Mapping[str, Any]) -> None:
    outcome = ended.outcome
    outcome.status = run_pb2.RunStatus.ValueType(note["status"])
    outcome.exhausted = run_pb2.BudgetDimension.ValueType(note.get("exhausted", 0))
    if note.get("failure"):
        json_format.ParseDict(note["failure"], outcome.failure)
    if note.get("usage"):
        json_format.ParseDict(note["usage"], ended.usage)
