"""A stand-in for an OpenTelemetry collector: takes spans over OTLP as a real one does, and keeps them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Told:
    """A span as it came in."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    """The traces of the spans it is linked to."""
    attributes: dict[str, Any]
    kind: int
    failed: bool
    events: int
    start_ns: int
    end_ns: int


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Serves `TraceService` on loopback, from `async with` to its end."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.raw = bytearray()
        """All that came in, as it was on the wire."""
        self.url = ""
        self._came = asyncio.Condition()
        self._server = grpc.aio.server()

    async def __aenter__(self) -> Self:
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(0)

    async def Export(  # noqa: N802 - OTLP's name
        self, request: pb.ExportTraceServiceRequest, _context: Any
    ) -> pb.ExportTraceServiceResponse:
        """Take spans."""
        async with self._came:
            self.raw += request.SerializeToString()
            for resource in request.resource_spans:
                service = _plain(resource.resource.attributes)["service.name"].removeprefix("holdfast-")
                for scope in resource.scope_spans:
                    self.spans += [_told(service, span) for span in scope.spans]
            self._came.notify_all()
        return pb.ExportTraceServiceResponse()

    def environment(self) -> dict[str, str]:
        """Return what a process is told to export here soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def find(self, name: str = "", *, run_id: str = "", service: str = "") -> list[Told]:
        """Return the spans of a name, a run, a service."""
        return [
            span
            for span in self.spans
            if (not name or span.name == name)
            and (not run_id or span.attributes.get("holdfast.run_id") == run_id)
            and (not service or span.service == service)
        ]

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait until enough has come in."""
        async with asyncio.timeout(PATIENCE_S), self._came:
            await self._came.wait_for(what)


def _told(service: str, span: Any) -> Told:
    return Told(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple(link.trace_id.hex() for link in span.links),
        attributes=_plain(span.attributes),
        kind=span.kind,
        failed=span.status.code == 2,
        events=len(span.events),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _plain(attributes: Sequence[Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        plain[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return plain
