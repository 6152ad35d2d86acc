"""Serves `EventService`: events start runs, each accepted or refused by itself."""

from typing import Any

import grpc

from holdfast.invoker.aside import aside_from
from holdfast.invoker.envelope import Violations, go_on_in_trace, read_envelope
from holdfast.invoker.parts import Parts
from holdfast.invoker.refused_message import refused_message
from holdfast.kit.errors import Fault, InvalidField, Unavailable
from holdfast.kit.rpc import page
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.kit.rpc.violation import Violations as PageViolations
from holdfast.ledger import inbox_refused
from holdfast.ledger.values import Admitted, Invocation
from holdfast.v1 import event_service_pb2 as pb
from holdfast.v1 import event_service_pb2_grpc, run_pb2

Context = grpc.aio.ServicerContext[Any, Any]

MAX_EVENTS = 1000
MAX_PAGE_BYTES = 3 * 1024 * 1024


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """The Worker shape's door."""

    def __init__(self, parts: Parts) -> None:
        self._door = parts.door
        self._db = parts.db
        self._inbox = parts.inbox.loop
        self._max_attempts = parts.settings.max_attempts

    async def PublishEvents(  # noqa: N802 - the contract's name
        self,
        request: pb.PublishEventsRequest,
        _context: Context,
    ) -> pb.PublishEventsResponse:
        """Admit each event in order; answer for each."""
        if not 1 <= len(request.events) <= MAX_EVENTS:
            wrong = Violations()
            wrong.add("events", f"must be 1 to {MAX_EVENTS:,}")
            wrong.settle()
        tenant = current_tenant()
        results: list[pb.PublishedEvent | None] = []
        accepted: list[tuple[int, Invocation]] = []
        for index, event in enumerate(request.events):
            try:
                go_on_in_trace(event)
                invocation = read_envelope(
                    event,
                    tenant=tenant,
                    shape=run_pb2.SHAPE_WORKER,
                    max_attempts=self._max_attempts,
                    wrong=Violations(f"events[{index}]."),
                    event=True,
                )
            except Fault as fault:
                results.append(_refused(fault))
            else:
                accepted.append((index, invocation))
                results.append(None)
        answers = await self._door.admit_all([invocation for _, invocation in accepted])
        away = [answer for answer in answers if isinstance(answer, Unavailable)]
        if away and len(away) == len(results):
            raise away[0]  # nothing is durable: the call as a whole is to be repeated
        for (index, _), answer in zip(accepted, answers, strict=True):
            results[index] = _answer(answer)
        return pb.PublishEventsResponse(results=[result for result in results if result is not None])

    async def SetAsideEvents(  # noqa: N802
        self,
        request: pb.SetAsideEventsRequest,
        _context: Context,
    ) -> pb.SetAsideEventsResponse:
        """Keep what a source received and cannot become runs."""
        wrong, tenant = Violations(), current_tenant()
        if not request.source:
            wrong.add("source", "must be given")
        wrong.text("source", request.source)
        if not 1 <= len(request.events) <= MAX_EVENTS:
            wrong.add("events", f"must be 1 to {MAX_EVENTS:,}")
        events = [
            aside_from(event, wrong.within(f"events[{index}]."), tenant=tenant)
            for index, event in enumerate(request.events)
        ]
        wrong.settle()
        async with self._db.connection() as connection:
            await inbox_refused.set_aside(connection, tenant, request.source, events)
        return pb.SetAsideEventsResponse()

    async def ListRefusedEvents(  # noqa: N802
        self,
        request: pb.ListRefusedEventsRequest,
        _context: Context,
    ) -> pb.ListRefusedEventsResponse:
        """List what services staged, or sources received, and could not become runs."""
        wrong = PageViolations()
        limit = page.size_of(wrong, request.page_size)
        after = page.cursor_of(wrong, "refused_events", request.page_token)
        if after and not after.isdecimal():
            wrong.add("page_token", "must be the next_page_token of a page before")
        wrong.check()
        async with self._db.connection() as connection:
            found = await inbox_refused.list_refused(
                connection, current_tenant(), limit=limit + 1, after=int(after or 0)
            )
        events: list[pb.RefusedEvent] = []
        size = 0
        for event in found[:limit]:
            message = refused_message(event)
            size += message.ByteSize()
            if events and size > MAX_PAGE_BYTES:  # the page must arrive; the rest is the next one's
                break
            events.append(message)
        more = len(found) > len(events)
        return pb.ListRefusedEventsResponse(
            events=events,
            next_page_token=page.token_of("refused_events", str(events[-1].event_id)) if more else "",
        )

    async def RetryRefusedEvent(  # noqa: N802
        self,
        request: pb.RetryRefusedEventRequest,
        _context: Context,
    ) -> pb.RetryRefusedEventResponse:
        """Send a refused event through the door again."""
        seq = await inbox_refused.retry(self._db, current_tenant(), request.event_id)
        self._inbox.wake()
        return pb.RetryRefusedEventResponse(event_id=seq)

    async def DiscardRefusedEvent(  # noqa: N802
        self,
        request: pb.DiscardRefusedEventRequest,
        _context: Context,
    ) -> pb.DiscardRefusedEventResponse:
        """Give up a refused event."""
        await inbox_refused.discard(self._db, current_tenant(), request.event_id)
        return pb.DiscardRefusedEventResponse()


def _answer(answer: Admitted | BaseException) -> pb.PublishedEvent:
    if isinstance(answer, Admitted):
        return pb.PublishedEvent(run_id=str(answer.run_id), duplicate=not answer.created)
    if isinstance(answer, Fault):
        return _refused(answer)
    raise answer


def _refused(fault: Fault) -> pb.PublishedEvent:
    field = fault.violations[0].field if isinstance(fault, InvalidField) and fault.violations else ""
    code: int = grpc.StatusCode[fault.status.value].value[0]
    return pb.PublishedEvent(
        refusal=pb.EventRefusal(code=code, reason=fault.reason, message=fault.message, field=field)
    )
