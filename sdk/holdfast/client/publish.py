"""Events go out in groups no larger than the contract and a message allow."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from holdfast.client.run import Published
from holdfast.client.wire_status import refusal_of
from holdfast.v1 import event_service_pb2

M = TypeVar("M", bound=Message)

MOST_EVENTS: Final = 1000
MOST_BYTES: Final = 3 * 1024 * 1024


def groups(events: Sequence[M]) -> Iterator[list[M]]:
    """Yield the events in order, in groups to be sent together; one that is too large goes alone."""
    group: list[M] = []
    size = 0
    for event in events:
        bytes_more = event.ByteSize() + 8
        if group and (len(group) == MOST_EVENTS or size + bytes_more > MOST_BYTES):
            yield group
            group, size = [], 0
        group.append(event)
        size += bytes_more
    if group:
        yield group


def published_of(message: event_service_pb2.PublishedEvent) -> Published:
    """Return what became of an event."""
    if not message.HasField("refusal"):
        return Published(message.run_id, message.duplicate)
    refusal = message.refusal
    return Published(refusal=refusal_of(refusal.reason, refusal.code, refusal.message, refusal.field))
