"""The span of a call we make: it ends when the call ends, and the call stays the caller's to cancel."""

# mypy: disable-error-code="no-untyped-call"
# The instrumentation says that it is typed, and its methods are not.

from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from opentelemetry.instrumentation.grpc import _aio_client as instrumentation
from opentelemetry.semconv._incubating.attributes.rpc_attributes import RPC_GRPC_STATUS_CODE
from opentelemetry.trace import Span, Status, StatusCode, Tracer

Details = grpc.aio.ClientCallDetails


class _Traced(instrumentation._BaseAioClientInterceptor):  # noqa: SLF001 - it has no public name
    """What the four arities share: start the span, send its context, end it with the call."""

    async def _follow(self, continuation: Callable[..., Any], details: Details, request: Any) -> Any:
        if self.tracing_skipped(details):
            return await continuation(details, request)
        with self._start_interceptor_span(details.method) as span:
            try:
                call = await continuation(self.propagate_trace_in_details(details), request)
            except BaseException as error:
                _end(span, error.code() if isinstance(error, grpc.aio.AioRpcError) else None)
                raise
            call.add_done_callback(lambda ended: _end(span, _known(ended.code())))
            return call


class _UnaryUnary(_Traced, instrumentation.UnaryUnaryAioClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Details, request: Any
    ) -> Any:
        return await self._follow(continuation, client_call_details, request)


class _UnaryStream(_Traced, instrumentation.UnaryStreamAioClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Details, request: Any
    ) -> Any:
        return await self._follow(continuation, client_call_details, request)


class _StreamUnary(_Traced, instrumentation.StreamUnaryAioClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Details, request_iterator: Any
    ) -> Any:
        return await self._follow(continuation, client_call_details, request_iterator)


class _StreamStream(_Traced, instrumentation.StreamStreamAioClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Details, request_iterator: Any
    ) -> Any:
        return await self._follow(continuation, client_call_details, request_iterator)


def traced(tracer: Tracer) -> list[grpc.aio.ClientInterceptor]:
    """Return one interceptor per arity; they must be the innermost of a channel, next to the real call."""
    return [_UnaryUnary(tracer), _UnaryStream(tracer), _StreamUnary(tracer), _StreamStream(tracer)]


def _known(answer: Coroutine[Any, Any, grpc.StatusCode]) -> grpc.StatusCode | None:
    """Return what an ended call answers without waiting; the callback of its end cannot wait."""
    try:
        answer.send(None)
    except StopIteration as returned:
        code: grpc.StatusCode = returned.value
        return code
    answer.close()
    return None


def _end(span: Span, code: grpc.StatusCode | None) -> None:
    if code is not None:
        span.set_attribute(RPC_GRPC_STATUS_CODE, code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(StatusCode.ERROR, code.name if code else "not started"))
    span.end()
