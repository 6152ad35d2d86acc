"""What a destination receives: the effect's JSON, its idempotency key, and a Standard Webhooks signature.

Source of the signature: the Standard Webhooks specification (headers webhook-id, webhook-timestamp,
webhook-signature). What of a key does not fit into a header's value (RFC 9110) is percent-encoded.
"""

import re
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
KEY: Final = "{key}"
"""Stands for the idempotency key in a status URL."""
# Everything printable, but the percent sign: two keys never become one.
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_IS_PLAIN: Final = re.compile(r"[!-$&-~]*").fullmatch


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """A request, ready to be sent: a POST of an effect, or a GET that asks about one."""

    url: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    method: str = "POST"


def header_key(idempotency_key: str) -> str:
    """Return an idempotency key as a header carries it: printable ASCII but `%` and spaces as it is."""
    return idempotency_key if _IS_PLAIN(idempotency_key) else quote(idempotency_key, safe=_PLAIN)


def outgoing(delivery: Delivery, secrets: Secrets, now: Callable[[], datetime]) -> OutgoingRequest:
    """Make the request of a delivery. Raises `SecretMissingError`."""
    headers = {"content-type": "application/json"} | _headers(delivery, delivery.body.decode(), secrets, now)
    return OutgoingRequest(delivery.destination.url, _encoded(headers), delivery.body)


def inquiry(delivery: Delivery, secrets: Secrets, now: Callable[[], datetime]) -> OutgoingRequest:
    """Make the request that asks whether the destination has an effect. Raises `SecretMissingError`.

    It carries the effect's idempotency key and a signature over an empty body.
    """
    url = delivery.destination.status_url.replace(KEY, quote(delivery.idempotency_key, safe=""))
    return OutgoingRequest(url, _encoded(_headers(delivery, "", secrets, now)), b"", "GET")


def _headers(delivery: Delivery, body: str, secrets: Secrets, now: Callable[[], datetime]) -> dict[str, str]:
    destination = delivery.destination
    key = header_key(delivery.idempotency_key)
    headers = {"user-agent": "holdfast-dispatcher"}
    headers |= {name.lower(): value for name, value in destination.headers.items()}
    headers["idempotency-key"] = key
    if delivery.traceparent:
        headers["traceparent"] = delivery.traceparent
    if destination.secret_name:
        time = now()
        signer = secrets.signer(destination.tenant, destination.secret_name)
        headers["webhook-id"] = key
        headers["webhook-timestamp"] = str(int(time.timestamp()))
        headers["webhook-signature"] = signer.sign(key, time, body)
    return headers


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
