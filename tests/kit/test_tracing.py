"""Tracing follows calls and never changes how they end."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

from holdfast.kit.errors import LedgerUnavailable, RunNotFound
from holdfast.kit.rpc.client import channel, streaming
from holdfast.kit.telemetry import tracing
from tests.kit.echo import NAME, Echo, EchoStub, echo, serving
from tests.kit.until import until

CODE = "rpc.grpc.status_code"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(tracing, "_known", tracing._Known())
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


async def ended(exporter: InMemorySpanExporter, count: int) -> dict[str, ReadableSpan]:
    """Wait until `count` spans have ended and return them by kind."""
    await until(lambda: len(exporter.get_finished_spans()) >= count)
    return {span.kind.name: span for span in exporter.get_finished_spans()}


async def test_a_call_makes_two_spans_of_one_trace(spans: InMemorySpanExporter) -> None:
    async with echo() as stub:
        for rpc in stub.all().values():
            spans.clear()
            await rpc(StringValue(value="x"))
            both = await ended(spans, 2)
            client, server = both["CLIENT"], both["SERVER"]
            assert server.parent is not None
            assert client.context is not None
            assert server.parent.span_id == client.context.span_id
            assert client.name.startswith(f"/{NAME}/")


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("rpc", ["one", "many", "gather", "talk"])
async def test_a_cancelled_client_task_ends_the_servers_handler_and_both_spans(
    *, traced: bool, rpc: str, request: pytest.FixtureRequest
) -> None:
    exporter = request.getfixturevalue("spans") if traced else None
    entered, left = asyncio.Event(), asyncio.Event()

    async def unary(_request: Any, _context: Any) -> StringValue:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    async def stream(request: Any, context: Any) -> AsyncIterator[StringValue]:
        yield await unary(request, context)

    async with echo(Echo(one=unary, many=stream, gather=unary, talk=stream)) as stub, asyncio.timeout(5):
        task = asyncio.ensure_future(stub.all()[rpc](StringValue()))
        await entered.wait()
        task.cancel()
        await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
        if exporter is not None:
            both = await ended(exporter, 2)
            assert {(span.attributes or {})[CODE] for span in both.values()} == {
                grpc.StatusCode.CANCELLED.value[0]
            }


async def test_a_stream_left_early_ends_the_servers_handler_and_both_spans(
    spans: InMemorySpanExporter,
) -> None:
    left = asyncio.Event()

    async def endless(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield StringValue(value="x")
                await asyncio.sleep(0)
        finally:
            left.set()

    async with echo(Echo(many=endless, talk=endless)) as stub, asyncio.timeout(5):
        for open_call in (lambda: stub.many(StringValue()), stub.talk):
            left.clear()
            spans.clear()
            async with streaming(open_call()) as call:
                await anext(aiter(call))
            await left.wait()
            await ended(spans, 2)


@pytest.mark.parametrize("failure", [RunNotFound("No such run."), LedgerUnavailable("Gone.")])
async def test_a_fault_is_in_both_spans_as_the_client_got_it(
    failure: RunNotFound | LedgerUnavailable, spans: InMemorySpanExporter
) -> None:
    async def failing(_request: Any, _context: Any) -> StringValue:
        raise failure

    async with echo(Echo(one=failing)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue())
        both = await ended(spans, 2)
    code = caught.value.code()
    assert code.name == failure.status.value
    assert {(span.attributes or {})[CODE] for span in both.values()} == {code.value[0]}
    assert both["SERVER"].status.is_ok == isinstance(failure, RunNotFound)


async def test_a_call_to_nobody_ends_its_span(spans: InMemorySpanExporter) -> None:
    async with serving(Echo()) as server:
        address = server.address
    async with channel(address) as over:
        with pytest.raises(grpc.aio.AioRpcError):
            await EchoStub(over).one(StringValue())
        both = await ended(spans, 1)
    assert (both["CLIENT"].attributes or {})[CODE] == grpc.StatusCode.UNAVAILABLE.value[0]


def test_nothing_is_traced_unless_asked() -> None:
    tracing.configure("invoker", {})
    assert not tracing.enabled()
