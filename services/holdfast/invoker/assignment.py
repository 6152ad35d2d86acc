"""What the ledger leased, as the runner is told."""

from holdfast.invoker.lease_trace import leased_traceparent
from holdfast.kit.rpc.run import failure_message, timestamp
from holdfast.ledger.values import Leased, Usage
from holdfast.v1 import invoker_service_pb2, run_pb2, work_service_pb2


def leased_assignment(lease: Leased) -> work_service_pb2.Assignment:
    """Describe a leased run."""
    invocation = invoker_service_pb2.InvokeRequest.FromString(lease.envelope)
    invocation.run_id = str(lease.run_id)
    invocation.caller.tenant = lease.tenant
    invocation.traceparent = leased_traceparent(lease, invocation.traceparent, invocation.correlation_id)
    limits = lease.limits
    budget = invocation.budget
    budget.deadline_ms = limits.deadline_ms
    budget.max_steps = limits.max_steps
    budget.max_tools = limits.max_tools
    budget.max_tokens = limits.max_tokens
    budget.max_context = limits.max_context
    assignment = work_service_pb2.Assignment(
        run_id=str(lease.run_id),
        epoch=lease.epoch,
        attempt=lease.attempt,
        max_attempts=lease.max_attempts,
        invocation=invocation,
        create_time=timestamp(lease.create_time),
        time=timestamp(lease.lease_time),
        last_commit=lease.last_commit,
        last_sequence=lease.last_sequence,
        mailbox_sequence=lease.mail_last,
        usage=run_pb2.Usage(
            steps=lease.usage.steps,
            tools=lease.usage.tools,
            tokens=lease.usage.tokens,
            context=lease.usage.context,
        ),
    )
    if lease.lent != Usage():
        assignment.lent.CopyFrom(
            run_pb2.Usage(steps=lease.lent.steps, tools=lease.lent.tools, tokens=lease.lent.tokens)
        )
    if lease.undoing is not None:
        assignment.compensating.CopyFrom(failure_message(lease.undoing))
    assignment.remaining.FromMilliseconds(max(0, int(lease.remaining_s * 1000)))
    return assignment
