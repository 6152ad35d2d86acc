"""Spans of what no RPC shows, under a parent that came along as a W3C `traceparent`.

Nothing is made while tracing is off. No span holds the text of an exception, which may quote a payload: its
type alone is kept.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from holdfast.kit.telemetry.tracing import enabled

RUN_ID: Final = "holdfast.run_id"
CORRELATION_ID: Final = "holdfast.correlation_id"
TENANT: Final = "holdfast.tenant"
INTENT: Final = "holdfast.intent"
STEP: Final = "holdfast.step"
EPOCH: Final = "holdfast.epoch"
ATTEMPT: Final = "holdfast.attempt"
SCHEDULE: Final = "holdfast.schedule"
SCHEDULED_TIME: Final = "holdfast.scheduled_time"

Attributes = Mapping[str, AttributeValue]

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str) -> bool:
    """Say whether a text names a span as version 00 of W3C Trace Context has it."""
    return len(text) == 55 and _TRACEPARENT.fullmatch(text) is not None  # noqa: PLR2004 - its length


def traceparent(span: Span | None = None) -> str:
    """Return the traceparent of a span, by default of the one this task is in; empty if there is none."""
    context = (trace.get_current_span() if span is None else span).get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def remote(text: str) -> SpanContext | None:
    """Return the span that a traceparent names, None if it names none."""
    if not is_traceparent(text):
        return None
    return SpanContext(int(text[3:35], 16), int(text[36:52], 16), is_remote=True, trace_flags=_flags(text))


def is_sampled(text: str) -> bool:
    """Say whether a traceparent asks for spans to be kept."""
    return is_traceparent(text) and bool(_flags(text) & TraceFlags.SAMPLED)


def start(
    name: str,
    *,
    under: str | Span | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
    links: Sequence[str] = (),
    start_ns: int | None = None,
) -> Span:
    """Start a span, which its caller ends; one that is not there while tracing is off.

    `under` is the parent: a traceparent (empty: it begins a trace), a span, or by default what this task is
    in. `links` are traceparents of spans elsewhere.
    """
    if not enabled():
        return INVALID_SPAN
    linked = [Link(context) for each in links if (context := remote(each)) is not None]
    return trace.get_tracer("holdfast").start_span(
        name, _context(under), kind, attributes, linked, start_ns, record_exception=False
    )


@contextmanager
def within(span: Span) -> Iterator[Span]:
    """Let the block's task be in a span, and end it with the block; an exception marks it as failed."""
    if span is INVALID_SPAN:
        yield span
        return
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span
    except Exception as error:
        failed(span, getattr(error, "reason", "") or type(error).__name__)
        raise
    finally:
        span.end()


def failed(span: Span, what: str) -> None:
    """Mark a span as failed: `what` is a reason or the name of an exception's type."""
    span.set_attribute(ERROR_TYPE, what)
    span.set_status(Status(StatusCode.ERROR, what))


def _context(under: str | Span | None) -> Context | None:
    if under is None:
        return None
    if isinstance(under, str):
        parent = remote(under)
        return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())
    return set_span_in_context(under, Context())


def _flags(text: str) -> TraceFlags:
    return TraceFlags(int(text[53:], 16))
