"""A test's channel is not kept waiting by what an earlier one found at the same port."""

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.server import Registration, Server
from tests.kit.echo import NAME, Echo, EchoStub, add_echo, serving


async def test_a_channel_reaches_a_server_whose_port_another_had_before() -> None:
    async with serving(Echo()) as gone, channel(gone.address) as before:
        await EchoStub(before).one(StringValue())
        await gone.stop(0)
        with pytest.raises(grpc.aio.AioRpcError):
            await EchoStub(before).one(StringValue())
        fresh = Server([Registration(add_echo, Echo(), NAME)], gone.address)
        await fresh.start()
        try:
            async with channel(gone.address) as after:
                assert (await EchoStub(after).one(StringValue(value="x"))).value == "x"
        finally:
            await fresh.stop(0)
