"""Events that services staged in the ledger's database and that could not become runs."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from holdfast.client.errors import HoldfastError
from holdfast.client.link import Link
from holdfast.client.wire_status import refusal_of
from holdfast.v1 import event_service_pb2 as pb
from holdfast.v1 import event_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """A staged event and why it was refused."""

    event_id: int
    intent: str
    idempotency_key: str
    ordering_key: str
    payload: Mapping[str, Any]
    refusal: HoldfastError
    create_time: datetime
    refuse_time: datetime


class RefusedEvents:
    """The dead letters among staged events: `client.refused_events`."""

    def __init__(self, stub: event_service_pb2_grpc.EventServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def list(self, *, page_size: int = 100) -> AsyncIterator[RefusedEvent]:
        """Yield the refused events, oldest first, page by page."""
        request = pb.ListRefusedEventsRequest(page_size=page_size)
        while True:
            page = await self._link.call(self._stub.ListRefusedEvents, request)
            for event in page.events:
                yield _event_of(event)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def retry(self, event_id: int) -> int:
        """Send an event through the door again; return the number it has now. Raises `EventNotFound`."""
        request = pb.RetryRefusedEventRequest(event_id=event_id)
        response = await self._link.call(self._stub.RetryRefusedEvent, request, repeatable=False)
        return int(response.event_id)

    async def discard(self, event_id: int) -> None:
        """Give up an event. Raises `EventNotFound`."""
        request = pb.DiscardRefusedEventRequest(event_id=event_id)
        await self._link.call(self._stub.DiscardRefusedEvent, request, repeatable=False)


def _event_of(message: pb.RefusedEvent) -> RefusedEvent:
    why = message.refusal
    return RefusedEvent(
        event_id=message.event_id,
        intent=message.intent,
        idempotency_key=message.idempotency_key,
        ordering_key=message.ordering_key,
        payload=MessageToDict(message.payload),
        refusal=refusal_of(why.reason, why.code, why.message, why.field),
        create_time=message.create_time.ToDatetime(UTC),
        refuse_time=message.refuse_time.ToDatetime(UTC),
    )
