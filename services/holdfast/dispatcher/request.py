"""What a destination receives: the effect's JSON, its idempotency key, and a Standard Webhooks signature.

Source of the signature: the Standard Webhooks specification (headers webhook-id, webhook-timestamp,
webhook-signature). What of a key does not fit into a header's value (RFC 9110) is percent-encoded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from holdfast.dispatcher.secret import Secrets
from holdfast.ledger.outbox_claim import Delivery

# Set by us or by the connection; a fixed header of a destination must not replace them.
RESERVED_HEADERS: Final = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "idempotency-key",
        "traceparent",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
)
# Everything printable, but the percent sign: two keys never become one.
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """A POST, ready to be sent."""

    url: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


def header_key(idempotency_key: str) -> str:
    """Return an idempotency key as a header carries it: printable ASCII but `%` and spaces as it is."""
    return quote(idempotency_key, safe=_PLAIN)


def outgoing(delivery: Delivery, secrets: Secrets, now: Callable[[], datetime]) -> OutgoingRequest:
    """Make the request of a delivery. Raises `SecretMissingError`."""
    destination = delivery.destination
    key = header_key(delivery.idempotency_key)
    headers = {"content-type": "application/json", "user-agent": "holdfast-dispatcher"}
    headers |= {name.lower(): value for name, value in destination.headers.items()}
    headers["idempotency-key"] = key
    if delivery.traceparent:
        headers["traceparent"] = delivery.traceparent
    if destination.secret_name:
        time = now()
        signer = secrets.signer(destination.tenant, destination.secret_name)
        headers["webhook-id"] = key
        headers["webhook-timestamp"] = str(int(time.timestamp()))
        headers["webhook-signature"] = signer.sign(key, time, delivery.body.decode())
    encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    return OutgoingRequest(destination.url, encoded, delivery.body)
