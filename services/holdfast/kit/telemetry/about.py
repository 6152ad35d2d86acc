"""What a task tells, in its log lines and its span, says which run it is about."""

from uuid import UUID

from opentelemetry import trace

from holdfast.kit.telemetry import logs, span
from holdfast.kit.telemetry.tracing import enabled


def about_run(run_id: UUID | str, correlation_id: str = "") -> None:
    """Have this task, and those it starts from now on, name a run in all they tell.

    A task that serves a call needs no end of it: the task is the call's own.
    """
    logs.bind(run_id=str(run_id), correlation_id=correlation_id or None)
    if enabled():
        current = trace.get_current_span()
        current.set_attribute(span.RUN_ID, str(run_id))
        if correlation_id:
            current.set_attribute(span.CORRELATION_ID, correlation_id)
