"""A run as each service shows it, without what only some may read: its payload, failures and outcome."""

from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import run_pb2

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def run_message(view: Any) -> run_pb2.Run:
    """Return a run; `view` is the ledger's `RunView`, which the kit does not know.

    What is nested is written in place: a message given to another is copied.
    """
    run = run_pb2.Run(
        run_id=str(view.run_id),
        intent=view.intent,
        idempotency_key=view.idempotency_key,
        correlation_id=view.correlation_id,
        shape=view.shape,
        ordering_key=view.ordering_key,
        priority=view.priority,
        session_id=view.session_id,
        agent_version=view.agent_version,
        status=view.status,
        attempt=view.attempt,
        last_sequence=view.last_sequence,
        handed_off=view.handed_off,
        cancel_requested=view.cancel_requested and view.outcome is None,
    )
    caller = run.caller
    caller.tenant, caller.user = view.tenant, view.user
    write_limits(run.budget, view.limits)
    write_usage(run.usage, view.usage)
    run.usage.elapsed_ms = _elapsed_ms(view)
    if view.labels:
        run.labels.update(view.labels)
    write_time(run.create_time, view.create_time)
    write_time(run.deadline_time, view.deadline_time)
    if view.start_time is not None:
        write_time(run.start_time, view.start_time)
    if view.end_time is not None:
        write_time(run.end_time, view.end_time)
    if view.parent_run_id is not None:
        run.parent_run_id = str(view.parent_run_id)
    if (lent := view.lent).steps or lent.tools or lent.tokens:
        write_usage(run.lent, lent)
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


def write_limits(budget: run_pb2.Budget, limits: Any) -> None:
    """Write the ledger's `Limits` into a budget."""
    budget.deadline_ms = limits.deadline_ms
    budget.max_steps = limits.max_steps
    budget.max_tools = limits.max_tools
    budget.max_tokens = limits.max_tokens
    budget.max_context = limits.max_context


def write_usage(usage: run_pb2.Usage, spent: Any) -> None:
    """Write the ledger's `Usage` into that of the contract."""
    usage.steps = spent.steps
    usage.tools = spent.tools
    usage.tokens = spent.tokens
    usage.context = spent.context


def write_time(into: Timestamp, moment: datetime) -> None:
    """Write a time as the contract has it."""
    since = moment - _EPOCH
    into.seconds = since.days * 86_400 + since.seconds
    into.nanos = since.microseconds * 1000


def timestamp(moment: datetime) -> Timestamp:
    """Return a time as the contract has it."""
    made = Timestamp()
    write_time(made, moment)
    return made


def _elapsed_ms(view: Any) -> int:
    return max(0, int(((view.end_time or view.now) - view.create_time).total_seconds() * 1000))
