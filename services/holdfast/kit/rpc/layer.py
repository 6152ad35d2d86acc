"""A layer is wrapped around every RPC of a server, once per method and not once per call.

All four arities become one form inside: `await behaviour(request, context)`, where a behaviour that streams
its response writes to the context and returns None. So a layer costs one coroutine per RPC and nothing per
message.
"""

import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias, cast

import grpc
from grpc.aio import ServerInterceptor, ServicerContext

from holdfast.kit.errors import NotYetAvailable

Context = ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

MAKE: Final[dict[tuple[bool, bool], Callable[..., Handler]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""Makes a handler of a behaviour, by whether requests and responses are streams."""

EXEMPT: Final = ("/grpc.health.", "/grpc.reflection.")
"""Methods that the machinery calls: not logged, not traced, of no tenant."""


class Layer(ServerInterceptor):
    """Wraps handlers; the first layer in a server's list is the outermost.

    A wrapped handler is kept per method, so whatever differs between calls is read inside the behaviour.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Handler] = {}

    @abstractmethod
    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Return what runs instead of `inner`: a coroutine function that awaits it at most once."""

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the wrapped handler of the method."""
        method = handler_call_details.method
        kept = self._kept.get(method)
        if kept is not None:
            return kept
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # unknown methods are not kept: their names are the caller's to invent
        self._kept[method] = wrapped = self.wrap(method, handler)
        return wrapped

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the handler with this layer around it."""
        return MAKE[handler.request_streaming, handler.response_streaming](
            self.around(method, behaviour_of(method, handler)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def behaviour_of(method: str, handler: Handler) -> Behaviour:
    """Return what a handler does, in the one form that layers know."""
    behaviour: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if inspect.iscoroutinefunction(behaviour):
        return cast("Behaviour", behaviour)
    if inspect.isasyncgenfunction(behaviour):
        return _pumped(behaviour)
    if behaviour.__module__.endswith("_pb2_grpc"):
        return _unserved(method)  # what protoc writes for an RPC that the servicer does not have
    raise TypeError(f"{behaviour!r} serves {method} and must be an async function")


def _pumped(behaviour: Any) -> Behaviour:
    async def pump(request: Any, context: Context) -> None:
        # aclosing: a call that ends early ends its generator here and now, not at garbage collection.
        async with aclosing(behaviour(request, context)) as responses:
            write = context.write
            async for response in responses:
                await write(response)

    return pump


def _unserved(method: str) -> Behaviour:
    async def unserved(_request: Any, _context: Context) -> None:
        raise NotYetAvailable(f"{method} is not served yet.")

    return unserved
