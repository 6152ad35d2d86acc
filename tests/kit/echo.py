"""A service made of well-known types, with one RPC of each arity, whose behaviour each test brings."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from holdfast.kit.rpc.client import channel, streaming
from holdfast.kit.rpc.server import Registration, Server

NAME = "test.Echo"

_READ = StringValue.FromString
_WRITE = StringValue.SerializeToString


class Echo:
    """The servicer; each RPC can be replaced by assignment before the server starts."""

    def __init__(self, **behaviours: Callable[..., Any]) -> None:
        for name, behaviour in behaviours.items():
            setattr(self, name, behaviour)

    async def one(self, request: StringValue, _context: Any) -> StringValue:
        return StringValue(value=request.value)

    async def many(self, request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        for number in range(3):
            yield StringValue(value=f"{request.value}{number}")

    async def gather(self, requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
        return StringValue(value="".join([request.value async for request in requests]))

    async def talk(self, requests: AsyncIterator[StringValue], _context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield StringValue(value=request.value.upper())


def add_echo(servicer: Any, server: Any) -> None:
    """Register the servicer, as generated code would."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "One": grpc.unary_unary_rpc_method_handler(servicer.one, _READ, _WRITE),
        "Many": grpc.unary_stream_rpc_method_handler(servicer.many, _READ, _WRITE),
        "Gather": grpc.stream_unary_rpc_method_handler(servicer.gather, _READ, _WRITE),
        "Talk": grpc.stream_stream_rpc_method_handler(servicer.talk, _READ, _WRITE),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


class EchoStub:
    """The client's side. `raw` sends bytes as they are."""

    def __init__(self, over: grpc.aio.Channel, *, raw: bool = False) -> None:
        write: Any = None if raw else _WRITE
        self.one: Any = over.unary_unary(f"/{NAME}/One", write, _READ)
        self.many: Any = over.unary_stream(f"/{NAME}/Many", write, _READ)
        self.gather: Any = over.stream_unary(f"/{NAME}/Gather", write, _READ)
        self.talk: Any = over.stream_stream(f"/{NAME}/Talk", write, _READ)

    def all(self) -> dict[str, Callable[[StringValue], Any]]:
        """Return each RPC as something that takes one request and gives its first answer."""
        return {
            "one": self.one,
            "many": lambda request: _first(self.many(request)),
            "gather": lambda request: self.gather(iter([request])),
            "talk": lambda request: _first(self.talk(iter([request]))),
        }


async def _first(call: Any) -> Any:
    async with streaming(call):
        async for response in call:
            return response
    return None


@asynccontextmanager
async def serving(servicer: Echo, **options: Any) -> AsyncIterator[Server]:
    """Serve Echo on a free port until the block ends."""
    server = Server([Registration(add_echo, servicer, NAME)], "127.0.0.1:0", **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def echo(servicer: Echo | None = None, *, raw: bool = False, **options: Any) -> AsyncIterator[EchoStub]:
    """Serve Echo and give a stub to it."""
    async with serving(servicer or Echo(), **options) as server, channel(server.address) as over:
        yield EchoStub(over, raw=raw)
