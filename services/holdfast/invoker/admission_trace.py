"""The span of an admission: from the door to the answer of the ledger."""

from contextlib import AbstractContextManager, nullcontext

from holdfast.kit.telemetry import span, tracing
from holdfast.kit.telemetry.about import about_run
from holdfast.ledger.values import Invocation


def admission(invocation: Invocation) -> AbstractContextManager[object]:
    """Return the span of admitting a run, for a block; what the task tells from now on is about that run."""
    about_run(invocation.run_id, invocation.correlation_id)
    if not tracing.enabled():
        return nullcontext()
    attributes = {
        span.RUN_ID: str(invocation.run_id),
        span.TENANT: invocation.tenant,
        span.INTENT: invocation.intent,
    }
    return span.within(span.start("admission", attributes=attributes))
