"""What a call makes others do ends when the call does: its remaining time goes on to the calls it makes.

This is an RPC's deadline. A run's own deadline is a row in the ledger and outlives every RPC.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import grpc

from holdfast.kit.rpc.layer import EXEMPT, Behaviour, Context, Layer

_ends: ContextVar[float | None] = ContextVar("holdfast_rpc_ends", default=None)

_MARGIN: Final = 0.005  # seconds kept back, so that the callee's refusal still reaches the caller


def remaining() -> float | None:
    """Return the seconds left of the RPC that this task serves, at least 0; None if it has no deadline."""
    ends = _ends.get()
    return None if ends is None else max(0.0, ends - time.monotonic())


def detach() -> None:
    """Forget the deadline in this task: for work that a call starts and that must outlive it."""
    _ends.set(None)


class DeadlineLayer(Layer):
    """Remembers when the call ends, for `remaining` and the client interceptors."""

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Set the deadline in the handler's own context and await `inner`."""
        if method.startswith(EXEMPT):
            return inner

        async def within(request: Any, context: Context) -> Any:
            left: float | None = context.time_remaining()
            if left is not None:
                _ends.set(time.monotonic() + left)
            return await inner(request, context)

        return within


def _shortened(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    left = remaining()
    if left is None:
        return details
    left = max(0.0, left - _MARGIN)
    timeout = left if details.timeout is None else min(left, details.timeout)
    return grpc.aio.ClientCallDetails(
        details.method, timeout, details.metadata, details.credentials, details.wait_for_ready
    )


# One class per arity: a channel looks at an interceptor's type once and would use a joined one for one only.


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_shortened(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(_shortened(client_call_details), request_iterator)


def deadline_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """Return the client interceptors that give a call the lesser of its own timeout and what is left.

    Only for calls with one response. A stream is held by `kit.rpc.client.streaming`, which ends it with the
    task that reads it; an interceptor would cost it a queue and two tasks for each message.
    """
    return [_UnaryUnary(), _StreamUnary()]
