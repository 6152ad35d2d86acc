"""A run that was forked, as its caller is told of it."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.ledger.values import RunView
from holdfast.v1 import run_pb2


def forked_message(view: RunView) -> run_pb2.Run:
    """Return the run as it stands, without payload and outcome."""
    limits, usage = view.limits, view.usage
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
        usage=run_pb2.Usage(steps=usage.steps, tools=usage.tools, tokens=usage.tokens, context=usage.context),
        last_sequence=view.last_sequence,
        handed_off=view.handed_off,
        cancel_requested=view.cancel_requested,
        create_time=_timestamp(view.create_time),
        deadline_time=_timestamp(view.deadline_time),
        start_time=_timestamp(view.start_time) if view.start_time else None,
        end_time=_timestamp(view.end_time) if view.end_time else None,
    )
    if view.forked_from is not None:
        origin, position = view.forked_from
        run.forked_from.CopyFrom(run_pb2.Fork(run_id=str(origin), position=position))
    return run


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
