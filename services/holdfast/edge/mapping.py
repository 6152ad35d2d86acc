"""An event becomes the envelope of a run: its key first, for that is what makes two deliveries one run."""

import hashlib
import json
from typing import Any, Final

from holdfast.client import Invocation
from holdfast.client.wire_value import payload_size
from holdfast.edge.fault import Malformed, TooLarge
from holdfast.edge.place import Place
from holdfast.edge.received import Received
from holdfast.edge.source import DIGEST, Mapped

MOST_BYTES: Final = 1_048_576
"""Of a payload as it is sent, as the contract has it; a Struct may be several times its JSON."""
_LONGEST: Final = 255


def invocation_of(event: Received, body: bytes, source: Mapped) -> Invocation:
    """Return the envelope. Raises `Malformed`, and `TooLarge` for a payload beyond the contract's."""
    payload = _payload(event, source)
    if payload_size(payload) > MOST_BYTES:
        raise TooLarge(f"An event's payload is at most {MOST_BYTES:,} bytes long as it is sent.")
    return Invocation(
        intent=source.intent,
        payload=payload,
        idempotency_key=key_of(event, body, source),
        tenant=source.tenant,
        ordering_key=_ordering_key(event, source),
        correlation_id=_fitting((source.correlation_id and source.correlation_id.text_of(event)) or ""),
        priority=source.priority,
        traceparent=event.traceparent,
        labels={
            name: _cut(text)
            for name, place in source.labels.items()
            if (text := place.text_of(event)) is not None
        },
    )


def key_of(event: Received, body: bytes, source: Mapped) -> str:
    """Return the idempotency key: the source's name and what stands for the event. Raises `Malformed`."""
    if source.key == DIGEST:
        # Of a batch each event has its own.
        of = json.dumps(event.whole, sort_keys=True).encode() if event.whole else body
        own = f"sha256:{hashlib.sha256(of).hexdigest()}"
    elif isinstance(source.key, Place):
        own = source.key.text_of(event) or ""
    else:
        own = event.own_key
    if not own:
        raise Malformed("The event has no id.", source.key.text if isinstance(source.key, Place) else "")
    return key_by(source, own)


def key_by(source: Mapped, own: str) -> str:
    """Return the idempotency key of an event by what stands for it within its source."""
    return _fitting(f"{source.name}/{own}")


def _payload(event: Received, source: Mapped) -> dict[str, Any]:
    told = event.whole if source.payload == "event" else event.data
    if not isinstance(told, dict):
        raise Malformed("The event's data is no JSON object.", "body")
    if not source.add:
        return told
    return told | {name: place.find(event) for name, place in source.add.items()}


def _ordering_key(event: Received, source: Mapped) -> str:
    if source.ordering_key is None:
        return ""
    if not (found := source.ordering_key.text_of(event)):
        raise Malformed("The event has nothing by which it is ordered.", source.ordering_key.text)
    return _fitting(found)


def _fitting(text: str) -> str:
    """Return a key as the contract takes it: what is too long is replaced by its hash."""
    if len(text.encode()) <= _LONGEST:
        return text
    head = text.partition("/")[0].encode()[:64].decode(errors="ignore")
    return f"{head}/sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _cut(text: str) -> str:
    return text.encode()[:_LONGEST].decode(errors="ignore")
