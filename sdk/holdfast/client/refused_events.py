"""Events that services staged in the ledger, or sources received, and that could not become runs."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from google.protobuf.json_format import MessageToDict

from holdfast.client.errors import HoldfastError
from holdfast.client.link import Link
from holdfast.client.publish import groups
from holdfast.client.run import Invocation
from holdfast.client.wire_run import envelope
from holdfast.client.wire_status import refusal_of
from holdfast.v1 import event_service_pb2 as pb
from holdfast.v1 import event_service_pb2_grpc

_MOST_BODY: Final = 65_600  # a little more than is kept, so that what was cut is seen to be


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event and why it was refused; `text` is the beginning of what was received and is no payload."""

    event_id: int
    intent: str
    idempotency_key: str
    ordering_key: str
    payload: Mapping[str, Any]
    refusal: HoldfastError
    create_time: datetime
    refuse_time: datetime
    source: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Aside:
    """An event that a source received, as the envelope it would have had, and why it cannot become a run.

    `body` is what was received, where no payload could be made of it.
    """

    event: Invocation
    refusal: HoldfastError
    body: bytes = b""


class RefusedEvents:
    """The dead letters among events: `client.refused_events`."""

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

    async def set_aside(self, source: str, events: Sequence[Aside]) -> None:
        """Keep events that a source received and that cannot become runs; durable on return. Repeatable."""
        for group in groups([_aside(event) for event in events]):
            request = pb.SetAsideEventsRequest(source=source, events=group)
            await self._link.call(self._stub.SetAsideEvents, request)

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
        source=message.source,
        text=message.text,
    )


def _aside(aside: Aside) -> pb.SetAsideEvent:
    why = aside.refusal
    field = why.violations[0].field if why.violations else ""
    code: int = grpc.StatusCode[why.code].value[0]
    return pb.SetAsideEvent(
        event=envelope(aside.event),
        body=aside.body[:_MOST_BODY],
        refusal=pb.EventRefusal(code=code, reason=why.reason, message=why.message[:500], field=field[:255]),
    )
