"""A trace follows a call through every service, and following it never changes how the call ends.

The interceptors of opentelemetry-instrumentation-grpc are corrected in three points: the client ones hand
the real call on, so cancelling a task cancels its call; a span ends when its call ends, read to its end or
not; the server one records the status that the client gets. Nothing of it is loaded while tracing is off.
"""

import grpc
from opentelemetry import trace

from holdfast.kit.telemetry.tracing import enabled


def server_layers() -> list[grpc.aio.ServerInterceptor]:
    """Return the server interceptors that trace; none while tracing is off."""
    if not enabled():
        return []
    from holdfast.kit.rpc.traced_server import TracingLayer

    return [TracingLayer(trace.get_tracer("holdfast.rpc"))]


def client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """Return the client interceptors that trace; none while tracing is off."""
    if not enabled():
        return []
    from holdfast.kit.rpc.traced_client import traced

    return traced(trace.get_tracer("holdfast.rpc"))
