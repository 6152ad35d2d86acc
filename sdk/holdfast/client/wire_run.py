"""Runs and envelopes between plain values and the contract's messages."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format

from holdfast.client.event import Event, Rewound, Snapshot, Update
from holdfast.client.number import BudgetDimension, RunStatus, Shape, StepKind
from holdfast.client.run import (
    Budget,
    Checkpoint,
    Degradation,
    Failure,
    Fork,
    Invocation,
    Outcome,
    Run,
    Usage,
)
from holdfast.client.wire_value import (
    plain_message,
    plain_struct,
    plain_value,
    seconds_of,
    stamp_of,
    struct_of,
    time_of,
)
from holdfast.v1 import checkpoint_pb2, invoker_service_pb2, run_pb2, transcript_pb2


def run_of(message: run_pb2.Run, degradations: Iterable[transcript_pb2.RunEvent] = ()) -> Run:
    """Return a run, with the rungs that these events tell of."""
    return Run(
        run_id=message.run_id,
        intent=message.intent,
        status=RunStatus(message.status),
        tenant=message.caller.tenant,
        user=message.caller.user,
        budget=budget_of(message.budget),
        usage=usage_of(message.usage),
        outcome=outcome_of(message.outcome) if message.HasField("outcome") else None,
        attempt=message.attempt,
        last_sequence=message.last_sequence,
        last_failure=failure_of(message.last_failure) if message.HasField("last_failure") else None,
        cancel_requested=message.cancel_requested,
        idempotency_key=message.idempotency_key,
        correlation_id=message.correlation_id,
        session_id=message.session_id,
        ordering_key=message.ordering_key,
        priority=message.priority,
        shape=Shape(message.shape),
        agent_version=message.agent_version,
        labels=dict(message.labels),
        payload=plain_struct(message.payload) if message.HasField("payload") else None,
        create_time=time_of(message.create_time),
        start_time=time_of(message.start_time),
        end_time=time_of(message.end_time),
        deadline_time=time_of(message.deadline_time),
        handed_off=message.handed_off,
        forked_from=_fork_of(message.forked_from) if message.HasField("forked_from") else None,
        parent_run_id=message.parent_run_id,
        lent=usage_of(message.lent),
        compensating=failure_of(message.compensating) if message.HasField("compensating") else None,
        paused=message.paused,
        pause_reason=message.pause_reason,
        waiting_for=message.waiting_for,
        held_back=message.held_back,
        degradations=tuple(_degradation_of(event) for event in degradations),
    )


def _degradation_of(event: transcript_pb2.RunEvent) -> Degradation:
    told = event.degraded
    return Degradation(told.rung, BudgetDimension(told.dimension), told.used, told.limit, time_of(event.time))


def outcome_of(message: run_pb2.Outcome) -> Outcome:
    """Return an outcome."""
    return Outcome(
        status=RunStatus(message.status),
        result=plain_value(message.result),
        failure=failure_of(message.failure) if message.HasField("failure") else None,
        exhausted=BudgetDimension(message.exhausted),
    )


def failure_of(message: run_pb2.Failure) -> Failure:
    """Return a failure."""
    return Failure(message.reason, message.message, message.step, message.attempts)


def usage_of(message: run_pb2.Usage) -> Usage:
    """Return what was spent."""
    return Usage(message.elapsed_ms, message.steps, message.tools, message.tokens, message.context)


def budget_message(budget: Budget | None) -> run_pb2.Budget | None:
    """Return a budget as the contract has it. Raises ValueError for a limit no 64 bits can hold."""
    if budget is None:
        return None
    return run_pb2.Budget(
        deadline_ms=budget.deadline_ms,
        max_steps=budget.max_steps,
        max_tools=budget.max_tools,
        max_tokens=budget.max_tokens,
        max_context=budget.max_context,
    )


def envelope(invocation: Invocation | Mapping[str, Any]) -> invoker_service_pb2.InvokeRequest:
    """Return the envelope; a mapping is the contract's JSON form of one.

    Raises ValueError for what no envelope can hold, unknown fields among it.
    """
    if not isinstance(invocation, Invocation):
        return _parsed(invocation)
    request = invoker_service_pb2.InvokeRequest(
        run_id=invocation.run_id,
        intent=invocation.intent,
        budget=budget_message(invocation.budget),
        idempotency_key=invocation.idempotency_key,
        correlation_id=invocation.correlation_id,
        shape=run_pb2.Shape.ValueType(invocation.shape),
        ordering_key=invocation.ordering_key,
        priority=invocation.priority,
        session_id=invocation.session_id,
        labels=invocation.labels,
        agent_version=invocation.agent_version,
        traceparent=invocation.traceparent,
    )
    if invocation.tenant or invocation.user:
        request.caller.CopyFrom(run_pb2.Caller(tenant=invocation.tenant, user=invocation.user))
    if invocation.payload is not None:
        request.payload.CopyFrom(struct_of(invocation.payload))
    if invocation.handoff is not None:
        request.handoff.CopyFrom(run_pb2.Handoff(budget=budget_message(invocation.handoff)))
    if invocation.not_before is not None:
        request.not_before.CopyFrom(stamp_of(invocation.not_before))
    return request


def update_of(
    message: invoker_service_pb2.WatchRunResponse | invoker_service_pb2.ConverseResponse,
) -> Update | None:
    """Return what a stream's message says; None for a message of a later contract."""
    kind = message.WhichOneof("update")
    if kind == "event":
        return event_of(message.event)
    if kind == "rewound":
        return Rewound(message.rewound.run_id, message.rewound.to_sequence)
    if kind == "snapshot":
        return Snapshot(run_of(message.snapshot.run), message.snapshot.sequence)
    return None


def event_of(message: transcript_pb2.RunEvent) -> Event:
    """Return an event."""
    kind = message.WhichOneof("event")
    return Event(
        run_id=message.run_id,
        sequence=message.sequence,
        kind=kind or "unknown",
        data=plain_message(getattr(message, kind)) if kind else {},
        epoch=message.epoch,
        attempt=message.attempt,
        step=message.step,
        time=time_of(message.time),
    )


def checkpoint_of(message: checkpoint_pb2.Checkpoint) -> Checkpoint:
    """Return a checkpoint."""
    return Checkpoint(
        run_id=message.run_id,
        position=message.position,
        key=message.key,
        kind=StepKind(message.kind),
        input=plain_value(message.input),
        output=plain_value(message.output),
        failure=failure_of(message.failure) if message.HasField("failure") else None,
        attempts=message.attempts,
        usage=usage_of(message.usage),
        duration=seconds_of(message.duration),
        run_attempt=message.run_attempt,
        create_time=time_of(message.create_time),
    )


def _fork_of(message: run_pb2.Fork) -> Fork:
    return Fork(message.run_id, message.position)


def budget_of(message: run_pb2.Budget) -> Budget:
    """Return a budget."""
    return Budget(
        message.deadline_ms, message.max_steps, message.max_tools, message.max_tokens, message.max_context
    )


def _parsed(given: Mapping[str, Any]) -> invoker_service_pb2.InvokeRequest:
    try:
        return json_format.ParseDict(dict(given), invoker_service_pb2.InvokeRequest())
    except json_format.ParseError as error:
        sentence = str(error).partition("\n")[0].rstrip(".")  # what follows lists all names there are
        raise ValueError(f"This is not an envelope: {sentence}.") from error
