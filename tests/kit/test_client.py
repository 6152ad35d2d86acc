"""What a channel does by itself."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from holdfast.kit.errors import ShuttingDown
from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.server import Registration, Server
from tests.kit.echo import NAME, Echo, EchoStub, add_echo, serving


def failing_at_first(times: int) -> tuple[list[int], Echo]:
    calls: list[int] = []

    async def unsteady(_request: Any, _context: Any) -> StringValue:
        calls.append(1)
        if len(calls) <= times:
            raise ShuttingDown("Come again.")
        return StringValue(value="done")

    return calls, Echo(one=unsteady)


@pytest.mark.parametrize("name", [NAME, f"{NAME}/One", f"/{NAME}/One"])
async def test_what_is_idempotent_is_sent_again_after_unavailable(name: str) -> None:
    calls, servicer = failing_at_first(2)
    async with serving(servicer) as server, channel(server.address, idempotent=[name]) as over:
        assert (await EchoStub(over).one(StringValue())).value == "done"
    assert len(calls) == 3


async def test_what_is_not_idempotent_is_sent_once() -> None:
    calls, servicer = failing_at_first(1)
    async with serving(servicer) as server, channel(server.address, idempotent=[f"{NAME}/Many"]) as over:
        with pytest.raises(grpc.aio.AioRpcError):
            await EchoStub(over).one(StringValue())
    assert len(calls) == 1


async def test_a_channel_finds_a_server_that_comes_back() -> None:
    async with serving(Echo()) as server, channel(server.address) as over:
        stub = EchoStub(over)
        await stub.one(StringValue())
        await server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.one(StringValue())
        again = Server([Registration(add_echo, Echo(), NAME)], server.address)
        await again.start()
        async with asyncio.timeout(10):
            assert (await stub.one(StringValue(value="x"), wait_for_ready=True)).value == "x"
        await again.stop(0)
