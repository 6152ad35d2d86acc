"""Whether a webhook comes from who it says: an HMAC over the bytes received, before they are read.

Sources: the Standard Webhooks specification (`webhook-id`, `webhook-timestamp`, `webhook-signature`),
GitHub's "Validating webhook deliveries" (`X-Hub-Signature-256`), Stripe's "Verify webhook signatures
manually" (`Stripe-Signature`).
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from holdfast.edge.fault import NotGenuine
from holdfast.kit.secret import SecretMissingError

Headers = Mapping[str, str]
"""By names in small letters."""
Verify = Callable[[Headers, bytes, Sequence[str], float, float], None]
"""Headers, body, secrets, now, tolerance in seconds; raises `NotGenuine`."""

_MOST_SIGNATURES: Final = 16


def _standard_webhooks(
    headers: Headers, body: bytes, secrets: Sequence[str], now: float, tolerance: float
) -> None:
    identity, stamp = _header(headers, "webhook-id"), _header(headers, "webhook-timestamp")
    _timely(stamp, now, tolerance)
    given = [
        value
        for version, _, value in (one.partition(",") for one in _header(headers, "webhook-signature").split())
        if version == "v1"
    ]
    signed = b".".join((identity.encode("latin-1"), stamp.encode("latin-1"), body))
    _one_of(given, (base64.b64encode(_hmac(_decoded(secret), signed)).decode() for secret in secrets))


def _github(headers: Headers, body: bytes, secrets: Sequence[str], now: float, tolerance: float) -> None:
    del now, tolerance  # GitHub signs no time
    given = _header(headers, "x-hub-signature-256").removeprefix("sha256=")
    _one_of([given], (_hmac(secret.encode(), body).hex() for secret in secrets))


def _stripe(headers: Headers, body: bytes, secrets: Sequence[str], now: float, tolerance: float) -> None:
    parts = [part.strip().partition("=") for part in _header(headers, "stripe-signature").split(",")]
    stamp = next((value for name, _, value in parts if name == "t"), "")
    _timely(stamp, now, tolerance)
    given = [value for name, _, value in parts if name == "v1"]
    signed = stamp.encode("latin-1") + b"." + body
    _one_of(given, (_hmac(secret.encode(), signed).hex() for secret in secrets))


def _none(headers: Headers, body: bytes, secrets: Sequence[str], now: float, tolerance: float) -> None:
    del headers, body, secrets, now, tolerance


VERIFIERS: Final[Mapping[str, Verify]] = {
    "standard-webhooks": _standard_webhooks,
    "github": _github,
    "stripe": _stripe,
    "none": _none,
}
"""The kinds of `verify`."""


def _header(headers: Headers, name: str) -> str:
    if not (value := headers.get(name, "").strip()):
        raise NotGenuine(f"The header {name} is missing.")
    return value


def _timely(stamp: str, now: float, tolerance: float) -> None:
    """Refuse what was signed too long ago: whoever caught it could send it again and again."""
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):  # noqa: PLR2004 - until the year 33658
        raise NotGenuine("The signature has no timestamp in seconds.")
    if abs(now - int(stamp)) > tolerance:
        raise NotGenuine(f"The signature's timestamp is more than {tolerance:g} s from now.")


def _one_of(given: Sequence[str], wanted: Iterable[str]) -> None:
    """Compare each in constant time. Raises `NotGenuine`."""
    known = [one.encode() for one in wanted]
    found = False
    for one in given[:_MOST_SIGNATURES]:
        for secret in known:
            found |= hmac.compare_digest(one.encode("utf-8", "surrogateescape"), secret)
    if not found:
        raise NotGenuine("The signature is none of this source's.")


def _hmac(secret: bytes, message: bytes) -> bytes:
    return hmac.new(secret, message, hashlib.sha256).digest()


def _decoded(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretMissingError("A secret of Standard Webhooks is not base64 (whsec_…).") from error
