"""What is sent to a run is checked as an envelope is: each malformed field is named."""

import json
from dataclasses import dataclass
from typing import Final

from google.protobuf.struct_pb2 import Value

from holdfast.invoker.envelope import MAX_KEY_BYTES, Violations
from holdfast.kit.rpc.payload import MAX_BYTES, PayloadError, plain_value, value_of
from holdfast.ledger.domain.mailbox import INPUT, INTERRUPT, RESERVED
from holdfast.ledger.mailbox_view import Signal
from holdfast.v1 import invoker_service_pb2, mailbox_pb2, runner_service_pb2

_NOTHING: Final = b"null"


@dataclass(frozen=True, slots=True)
class Sent:
    """A signal as a client sends it; `payload` is JSON with its keys in order."""

    key: str
    payload: bytes
    signal_id: str
    urgent: bool = False


def read_signal(request: invoker_service_pb2.SignalRunRequest, wrong: Violations) -> Sent:
    """Read a message for a mailbox; `wrong` gets what is wrong with it."""
    return _sent(request.key, request.payload, request.signal_id, wrong)


def read_interrupt(
    request: invoker_service_pb2.InterruptRunRequest | invoker_service_pb2.ConverseInterrupt,
    wrong: Violations,
) -> Sent:
    """Read urgent input; `wrong` gets what is wrong with it."""
    return _sent(INTERRUPT, request.payload, request.signal_id, wrong, urgent=True)


def read_input(message: invoker_service_pb2.ConverseInput, wrong: Violations) -> Sent:
    """Read input, under the key `input` unless it names another; `wrong` gets what is wrong with it."""
    return _sent(message.key or INPUT, message.payload, message.signal_id, wrong)


def attach_signal(signal: Signal) -> runner_service_pb2.AttachSignal:
    """Return a signal as the live link has it."""
    return runner_service_pb2.AttachSignal(
        signal_id=signal.signal_id,
        key=signal.key,
        payload=value_of(json.loads(signal.payload)),
        urgent=signal.urgent,
        sequence=signal.sequence,
    )


def mailbox_signal(signal: Signal) -> mailbox_pb2.MailboxSignal:
    """Return a signal as a lease stream has it."""
    return mailbox_pb2.MailboxSignal(
        signal_id=signal.signal_id,
        key=signal.key,
        payload=signal.payload,
        urgent=signal.urgent,
        sequence=signal.sequence,
    )


def _sent(key: str, payload: Value, signal_id: str, wrong: Violations, *, urgent: bool = False) -> Sent:
    if not key:
        wrong.add("key", f"must be given: 1 to {MAX_KEY_BYTES} bytes")
    for field, text in (("key", key), ("signal_id", signal_id)):
        wrong.text(field, text)
        if text.startswith(RESERVED):
            wrong.add(field, f"begins with a name of the platform's own: {', '.join(RESERVED)}")
    return Sent(key, _json(payload, wrong), signal_id, urgent)


def _json(payload: Value, wrong: Violations) -> bytes:
    """Return JSON that is the same for equal values; what is too large is not even looked at."""
    if payload.ByteSize() <= MAX_BYTES:
        try:
            plain = plain_value(payload, "payload")
        except PayloadError as error:
            wrong.add(error.field, str(error))
            return _NOTHING
        encoded = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if len(encoded) <= MAX_BYTES:
            return encoded
    wrong.add("payload", f"must be at most {MAX_BYTES:,} bytes, also as JSON")
    return _NOTHING
