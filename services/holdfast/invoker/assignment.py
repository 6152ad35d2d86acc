"""What the ledger leased, as the runner is told."""

from holdfast.invoker.lease_trace import leased_traceparent
from holdfast.kit.rpc.run import failure_message, write_limits, write_time, write_usage
from holdfast.ledger.values import Leased
from holdfast.v1 import work_service_pb2


def leased_assignment(lease: Leased) -> work_service_pb2.Assignment:
    """Describe a leased run. What is nested is written in place: a message given to another is copied."""
    run_id = str(lease.run_id)
    assignment = work_service_pb2.Assignment(
        run_id=run_id,
        epoch=lease.epoch,
        attempt=lease.attempt,
        max_attempts=lease.max_attempts,
        last_commit=lease.last_commit,
        last_sequence=lease.last_sequence,
        mailbox_sequence=lease.mail_last,
    )
    invocation = assignment.invocation
    invocation.MergeFromString(lease.envelope)
    invocation.run_id = run_id
    invocation.caller.tenant = lease.tenant
    invocation.traceparent = leased_traceparent(lease, invocation.traceparent, invocation.correlation_id)
    write_limits(invocation.budget, lease.limits)
    write_time(assignment.create_time, lease.create_time)
    write_time(assignment.time, lease.lease_time)
    write_usage(assignment.usage, lease.usage)
    if (lent := lease.lent).steps or lent.tools or lent.tokens:
        write_usage(assignment.lent, lent)
    if lease.undoing is not None:
        assignment.compensating.CopyFrom(failure_message(lease.undoing))
    assignment.remaining.FromMilliseconds(max(0, int(lease.remaining_s * 1000)))
    return assignment
