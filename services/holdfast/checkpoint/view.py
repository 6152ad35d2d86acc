"""Recorded steps as people see them; signals, and the end of a history, as runners do."""

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from google.protobuf.struct_pb2 import Value

from holdfast.checkpoint.message_session import session_message
from holdfast.ledger.history import Beginning, PastPage, StepPage, StoredStep
from holdfast.ledger.mailbox_view import Signal
from holdfast.v1.checkpoint_pb2 import Checkpoint, StepRecord
from holdfast.v1.checkpoint_service_pb2 import ListCheckpointsResponse, LoadRunResponse
from holdfast.v1.mailbox_pb2 import MailboxSignal


def loaded(step: StoredStep) -> StepRecord:
    """Return a record as a replay gets it: of a wait, how long it still takes."""
    record = StepRecord.FromString(step.record)
    if record.HasField("wait_for"):
        left = record.wait_for.ToTimedelta() - timedelta(seconds=step.age_s)
        record.wait_for.FromTimedelta(max(left, timedelta()))
    return record


def checkpoints(run_id: str, steps: Iterable[StoredStep]) -> list[Checkpoint]:
    """Show stored steps; the intents among them are none yet."""
    records = [(step, StepRecord.FromString(step.record)) for step in steps]
    return [_checkpoint(run_id, step, record) for step, record in records if not record.intent]


def past_page(run_id: str, page: PastPage) -> ListCheckpointsResponse:
    """Tell what a replay needs: the records, intents among them, and what each scope has emitted.

    Input and output are in the records; shown beside them, too, a page might be too much for one message.
    """
    listed = []
    for step in page.steps:
        record = loaded(step)
        raw = record.SerializeToString()
        record.input = record.output = b""
        checkpoint = _checkpoint(run_id, step, record)
        checkpoint.record = raw
        listed.append(checkpoint)
    return ListCheckpointsResponse(checkpoints=listed, next_page_token=next_token(page), emitted=page.emitted)


def next_token(page: StepPage) -> str:
    """Return where the next page begins; empty on the last."""
    return str(page.steps[-1].position) if page.more else ""


def _checkpoint(run_id: str, step: StoredStep, record: StepRecord) -> Checkpoint:
    """Show a stored step; input and output that are not JSON are shown as text."""
    shown = Checkpoint(
        run_id=run_id,
        position=step.position,
        key=record.key,
        kind=record.kind,
        attempts=record.attempts,
        run_attempt=step.attempt,
    )
    if record.input:
        shown.input.CopyFrom(_value(record.input))
    if record.output:
        shown.output.CopyFrom(_value(record.output))
    if record.HasField("failure"):
        shown.failure.CopyFrom(record.failure)
    if record.HasField("usage"):
        shown.usage.CopyFrom(record.usage)
    if record.HasField("duration"):
        shown.duration.CopyFrom(record.duration)
    shown.create_time.FromDatetime(step.create_time)
    return shown


def beginning_message(beginning: Beginning) -> LoadRunResponse:
    """Return what a lease begins with beside the recorded steps and the signals."""
    session = None if beginning.session is None else session_message(beginning.session)
    return LoadRunResponse(emitted=beginning.emitted, session=session, handed_off=beginning.handed_off)


def signal_message(signal: Signal) -> MailboxSignal:
    """Return a signal that waits for its run."""
    return MailboxSignal(
        signal_id=signal.signal_id,
        key=signal.key,
        payload=signal.payload,
        urgent=signal.urgent,
        sequence=signal.sequence,
    )


def _value(raw: bytes) -> Value:
    value = Value()
    try:
        _fill(value, json.loads(raw))
    except (ValueError, RecursionError):
        value.string_value = raw.decode(errors="replace")
    return value


def _fill(value: Value, held: Any) -> None:
    if isinstance(held, dict):
        value.struct_value.SetInParent()
        for key, field in held.items():
            _fill(value.struct_value.fields[key], field)
    elif isinstance(held, list):
        value.list_value.SetInParent()
        for item in held:
            _fill(value.list_value.values.add(), item)
    elif isinstance(held, bool):
        value.bool_value = held
    elif isinstance(held, int | float):
        value.number_value = held
    elif isinstance(held, str):
        value.string_value = held
    else:
        value.null_value = 0  # type: ignore[assignment]
