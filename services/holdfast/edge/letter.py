"""A message of a stream becomes a letter; as no sender can be told, what cannot be read is set aside."""

from collections.abc import Callable
from typing import Final

from holdfast.client import Invocation
from holdfast.client.errors import InvalidField, Violation
from holdfast.edge.fault import Malformed, TooLarge
from holdfast.edge.intake import Letter
from holdfast.edge.mapping import invocation_of, key_by
from holdfast.edge.received import Received
from holdfast.edge.source import Mapped
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("letter")


def letter_of(read: Callable[[], Received], own: str, body: bytes, source: Mapped) -> Letter:
    """Return the letter of a message that `read` reads; `own` is what it is known by if it cannot be read."""
    try:
        return Letter(invocation_of(read(), body, source))
    except (Malformed, TooLarge) as refusal:
        return _refused(source, own, body, refusal)
    except Exception as error:  # noqa: BLE001 - one message must not end the reading of all others
        _log.error("a message cannot be read", error=error, source=source.name, key=own)
        return _refused(source, own, body, Malformed("The message cannot be read."))


def _refused(source: Mapped, own: str, body: bytes, refusal: Malformed | TooLarge) -> Letter:
    """Return a message as it is set aside: what was received, under its place in the stream."""
    field = refusal.field if isinstance(refusal, Malformed) else "body"
    return Letter(
        Invocation(source.intent, idempotency_key=key_by(source, own), tenant=source.tenant),
        body or b"(empty)",
        InvalidField(str(refusal), violations=[Violation(field, str(refusal))] if field else []),
    )
