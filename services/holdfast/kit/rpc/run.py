"""A run as each service shows it, without what only some may read: its payload, failures and outcome."""

from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import run_pb2

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def run_message(view: Any) -> run_pb2.Run:
    """Return a run; `view` is the ledger's `RunView`, which the kit does not know."""
    limits = view.limits
    run = run_pb2.Run(
        run_id=str(view.run_id),
        intent=view.intent,
        caller=run_pb2.Caller(tenant=view.tenant, user=view.user),
        budget=run_pb2.Budget(
            deadline_ms=limits.deadline_ms,
            max_steps=limits.max_steps,
            max_tools=limits.max_tools,
            max_tokens=limits.max_tokens,
            max_context=limits.max_context,
        ),
        idempotency_key=view.idempotency_key,
        correlation_id=view.correlation_id,
        shape=run_pb2.Shape.ValueType(view.shape),
        ordering_key=view.ordering_key,
        priority=view.priority,
        session_id=view.session_id,
        labels=view.labels,
        agent_version=view.agent_version,
        status=run_pb2.RunStatus.ValueType(view.status),
        attempt=view.attempt,
        usage=run_pb2.Usage(
            elapsed_ms=_elapsed_ms(view),
            steps=view.usage.steps,
            tools=view.usage.tools,
            tokens=view.usage.tokens,
            context=view.usage.context,
        ),
        last_sequence=view.last_sequence,
        handed_off=view.handed_off,
        cancel_requested=view.cancel_requested and view.outcome is None,
        create_time=timestamp(view.create_time),
        deadline_time=timestamp(view.deadline_time),
        start_time=_maybe(view.start_time),
        end_time=_maybe(view.end_time),
    )
    if view.parent_run_id is not None:
        run.parent_run_id = str(view.parent_run_id)
    if (lent := view.lent).steps or lent.tools or lent.tokens:
        run.lent.CopyFrom(run_pb2.Usage(steps=lent.steps, tools=lent.tools, tokens=lent.tokens))
    if view.forked_from is not None:
        origin, position = view.forked_from
        run.forked_from.CopyFrom(run_pb2.Fork(run_id=str(origin), position=position))
    if (cause := view.undoing) is not None:
        run.compensating.CopyFrom(failure_message(cause))
    if view.paused is not None and view.outcome is None:
        run.paused, run.pause_reason = True, view.paused
    return run


def failure_message(failure: Any) -> run_pb2.Failure:
    """Return why something failed; `failure` is the ledger's."""
    return run_pb2.Failure(
        reason=failure.reason, message=failure.message, step=failure.step, attempts=failure.attempts
    )


def timestamp(moment: datetime) -> Timestamp:
    """Return a time as the contract has it."""
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def _maybe(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else timestamp(moment)


def _elapsed_ms(view: Any) -> int:
    return max(0, int(((view.end_time or view.now) - view.create_time).total_seconds() * 1000))
