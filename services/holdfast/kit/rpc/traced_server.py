"""The span of a served call: opened in the caller's trace, closed with the status that the caller gets."""

# mypy: disable-error-code="no-untyped-call"
# The instrumentation says that it is typed, and its methods are not.

from typing import Any

import grpc
from opentelemetry.instrumentation.grpc._aio_server import OpenTelemetryAioServerInterceptor
from opentelemetry.semconv._incubating.attributes.rpc_attributes import RPC_GRPC_STATUS_CODE
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from holdfast.kit.errors import Fault
from holdfast.kit.rpc.layer import EXEMPT, Behaviour, Context, Layer
from holdfast.kit.telemetry import logs

_FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class _Discreet(Tracer):
    """Starts spans that keep no text of an exception: it may quote what a caller has sent."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(self, *arguments: Any, **options: Any) -> Span:
        """Start a span."""
        return self._tracer.start_span(*arguments, **(options | {"record_exception": False}))

    def start_as_current_span(self, *arguments: Any, **options: Any) -> Any:
        """Start a span for a block."""
        return self._tracer.start_as_current_span(*arguments, **(options | {"record_exception": False}))


class _Details:
    """What the instrumentation reads of a call's details."""

    def __init__(self, method: str) -> None:
        self.method = method


class TracingLayer(Layer):
    """Traces every call but health and reflection; belongs inside of the fault layer."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._spans = OpenTelemetryAioServerInterceptor(_Discreet(tracer))

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Await `inner` in a span, whatever its arity."""
        if method.startswith(EXEMPT):
            return inner
        remote, start = self._spans._set_remote_context, self._spans._start_span  # noqa: SLF001 - have no public name
        details = _Details(method)

        async def traced(request: Any, context: Context) -> Any:
            with remote(context), start(details, context) as span:
                logs.bind(trace_id=f"{span.get_span_context().trace_id:032x}")  # the call's task is its own
                try:
                    return await inner(request, context)
                except Fault as fault:
                    _close(span, grpc.StatusCode[fault.status.value])
                    raise
                except grpc.aio.BaseError:
                    code: Any = context.code()  # None until someone set it
                    _close(span, code or grpc.StatusCode.UNKNOWN)
                    raise
                except Exception:
                    _close(span, grpc.StatusCode.INTERNAL)
                    raise
                except BaseException:
                    _close(span, grpc.StatusCode.CANCELLED)
                    raise

        return traced


def _close(span: Span, code: grpc.StatusCode) -> None:
    span.set_attribute(RPC_GRPC_STATUS_CODE, code.value[0])
    if code in _FAILURES:
        span.set_status(Status(StatusCode.ERROR, code.name))
