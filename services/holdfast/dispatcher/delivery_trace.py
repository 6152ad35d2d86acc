"""Each attempt to deliver an effect is a span of the trace that staged it; what it calls goes on under it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from opentelemetry.semconv.attributes.http_attributes import HTTP_RESPONSE_STATUS_CODE
from opentelemetry.trace import SpanKind

from holdfast.dispatcher.answer import CallResult
from holdfast.kit.telemetry import span
from holdfast.kit.telemetry.tracing import enabled
from holdfast.ledger.outbox_claim import Delivery


@contextmanager
def delivering(delivery: Delivery) -> Iterator[tuple[Delivery, Callable[[CallResult], None]]]:
    """Be around an attempt: yield the delivery as it is to be sent, and what is to be told of its result."""
    if not enabled():
        yield delivery, lambda _: None
        return
    attributes: dict[str, Any] = {
        "holdfast.effect_id": str(delivery.effect_id),
        "holdfast.destination": delivery.destination.name,
        "holdfast.delivery.attempt": delivery.attempts + 1,
        span.TENANT: delivery.destination.tenant,
    }
    if delivery.run_id is not None:
        attributes[span.RUN_ID] = str(delivery.run_id)
    begun = span.start(
        f"deliver {delivery.destination.name}",
        under=delivery.traceparent,
        kind=SpanKind.CLIENT,
        attributes=attributes,
    )

    def told(result: CallResult) -> None:
        if result.http_status:
            begun.set_attribute(HTTP_RESPONSE_STATUS_CODE, result.http_status)
        if result.reason:
            span.failed(begun, result.reason)

    with span.within(begun):
        traceparent = span.traceparent(begun)
        yield (replace(delivery, traceparent=traceparent) if traceparent else delivery), told


def about(delivery: Delivery) -> dict[str, str]:
    """Say in the log which effect it is, and of which run."""
    told = {"effect_id": str(delivery.effect_id)}
    if delivery.run_id is not None:
        told["run_id"] = str(delivery.run_id)
    if delivery.correlation_id:
        told["correlation_id"] = delivery.correlation_id
    if delivery.traceparent:
        told["trace_id"] = delivery.traceparent[3:35]
    return told
