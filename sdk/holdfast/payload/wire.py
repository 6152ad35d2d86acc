"""Where messages become bytes: channels and servers that seal what goes out and open what comes in."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import grpc

from holdfast.payload.sealing import Sealing

_ARITIES: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def sealed_channel(
    channel: grpc.aio.Channel, sealing: Sealing | None, *, seals: bool = True
) -> grpc.aio.Channel:
    """Return the channel with sealed payloads, whatever stub is made over it; without a sealing, as it is.

    Where it `seals` nothing, it only opens what comes.
    """
    return channel if sealing is None else cast("grpc.aio.Channel", _SealedChannel(channel, sealing, seals))


class _SealedChannel:
    """Another channel, but for what is written and read over it."""

    def __init__(self, channel: grpc.aio.Channel, sealing: Sealing, seals: bool) -> None:  # noqa: FBT001 -- ours
        self._channel = channel
        self._sealing = sealing
        self._seals = seals

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        return self._sealed(found) if name in _ARITIES else found

    def _sealed(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(
            method: str,
            request_serializer: Callable[[Any], bytes],
            response_deserializer: Callable[[bytes], Any],
            **options: Any,
        ) -> Any:
            write = _writing(self._sealing, request_serializer) if self._seals else request_serializer
            return make(
                method,
                request_serializer=write,
                response_deserializer=_reading(self._sealing, response_deserializer),
                **options,
            )

        return made


class SealedServer(grpc.aio.ServerInterceptor):
    """Opens the payloads of requests and seals those of responses, of every method of a server."""

    def __init__(self, sealing: Sealing) -> None:
        self._sealing = sealing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, which reads and writes sealed payloads."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return handler._replace(  # a named tuple's own
            request_deserializer=_reading(self._sealing, handler.request_deserializer),
            response_serializer=_writing(self._sealing, handler.response_serializer),
        )


def _writing(sealing: Sealing, write: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda message: write(sealing.sealed(message))


def _reading(sealing: Sealing, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    return lambda encoded: sealing.opened(read(encoded))
