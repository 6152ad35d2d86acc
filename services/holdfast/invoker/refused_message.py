"""A refused event as the contract has it."""

import json
from typing import Final

import grpc

from holdfast.kit.errors import FAULTS
from holdfast.kit.rpc.payload import MAX_BYTES, value_of
from holdfast.ledger.inbox_refused import RefusedEvent
from holdfast.v1 import event_service_pb2 as pb

_LONGEST_TEXT: Final = 4_096  # of each event: a page of 500 stays within a message


def refused_message(event: RefusedEvent) -> pb.RefusedEvent:
    """Return the message; without a payload that the contract cannot hold."""
    kind = FAULTS.get(event.reason)
    code: int = grpc.StatusCode[kind.status.value if kind else "UNKNOWN"].value[0]
    message = pb.RefusedEvent(
        event_id=event.seq,
        intent=event.intent,
        idempotency_key=event.idempotency_key,
        ordering_key=event.ordering_key,
        source=event.source,
        refusal=pb.EventRefusal(code=code, reason=event.reason, message=event.message, field=event.field),
    )
    message.create_time.FromDatetime(event.create_time)
    message.refuse_time.FromDatetime(event.refuse_time)
    try:
        match json.loads(event.payload):
            case str(received):
                message.text = received[:_LONGEST_TEXT]
            case payload:
                message.payload.CopyFrom(value_of(payload).struct_value)
        fits = message.payload.ByteSize() <= MAX_BYTES
    except (ValueError, OverflowError, RecursionError, TypeError):
        fits = False
    if not fits:
        message.ClearField("payload")
        message.text = event.payload[:_LONGEST_TEXT]
    return message
