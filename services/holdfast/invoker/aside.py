"""An event that a source received and that cannot become a run, as it is kept for people to look at."""

import json
from datetime import UTC, datetime
from typing import Final

from google.protobuf.json_format import MessageToDict

from holdfast.invoker.envelope import Violations
from holdfast.kit.errors import InvalidField, TenantMismatch
from holdfast.kit.telemetry.span import is_traceparent
from holdfast.ledger.inbox_refused import Aside
from holdfast.v1 import event_service_pb2 as pb
from holdfast.v1 import invoker_service_pb2

MOST_KEPT: Final = 65_536
"""Bytes of what was received, where it is no payload."""
_LONGEST_MESSAGE: Final = 2_000


def aside_from(request: pb.SetAsideEvent, wrong: Violations, *, tenant: str) -> Aside:
    """Check an event and return what is kept of it. Raises `TenantMismatch`; adds to `wrong`."""
    event = request.event
    if event.caller.tenant and event.caller.tenant != tenant:
        raise TenantMismatch("caller.tenant is not the tenant of the credential")
    wrong.intent("event.intent", event.intent)
    if not event.idempotency_key:
        wrong.add("event.idempotency_key", "must be given: the event's own id")
    for name in ("idempotency_key", "ordering_key", "correlation_id"):
        wrong.text(f"event.{name}", getattr(event, name))
    wrong.text("event.caller.user", event.caller.user)
    wrong.labels("event.labels", event.labels)
    if not 0 <= event.priority <= 9:  # noqa: PLR2004 - the contract's range
        wrong.add("event.priority", "must be between 0 and 9")
    refusal = request.refusal
    for name, limit in (("reason", 255), ("message", _LONGEST_MESSAGE), ("field", 1000)):
        wrong.text(f"refusal.{name}", getattr(refusal, name), limit=limit)
    return Aside(
        intent=event.intent,
        payload=_kept(request.body) if request.body else json.dumps(MessageToDict(event.payload)),
        idempotency_key=event.idempotency_key,
        ordering_key=event.ordering_key,
        caller_user=event.caller.user,
        priority=event.priority,
        labels=json.dumps(dict(event.labels)),
        correlation_id=event.correlation_id,
        not_before=_not_before(event, wrong),
        reason=refusal.reason or InvalidField.reason,
        message=refusal.message,
        field=refusal.field,
        traceparent=event.traceparent if is_traceparent(event.traceparent) else "",
    )


def _kept(body: bytes) -> str:
    """Return what was received as a JSON text, for an object would be a payload once it is sent again."""
    text = body[:MOST_KEPT].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    return json.dumps(text if len(body) <= MOST_KEPT else text + " …")


def _not_before(event: invoker_service_pb2.InvokeRequest, wrong: Violations) -> datetime | None:
    if not event.HasField("not_before"):
        return None
    try:
        return event.not_before.ToDatetime(UTC)
    except (ValueError, OverflowError):
        wrong.add("event.not_before", "is not a time")
        return None
