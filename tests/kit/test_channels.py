"""Channels to a name that nobody had for a while."""

import asyncio
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast.kit.rpc.channels import Channels
from holdfast.kit.rpc.server import Server
from tests.support.name_server import ZONE, NameServer

AWAY_S = 6.0
"""For so long nobody has the name: what gRPC waits before it asks again grows to four seconds and more."""


async def test_a_name_that_nobody_had_for_long_is_found_soon_after_somebody_has_it() -> None:
    names = NameServer()
    asked_at = await names.start("127.0.0.1", 0)
    server = Server([], "127.0.0.1:0")
    port = await server.start()
    channels = Channels([f"dns://127.0.0.1:{asked_at}/it.here.{ZONE}:{port}"], patience=0.5)

    async def answered() -> bool:
        try:
            await health_pb2_grpc.HealthStub(channels[0]).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.05)
            return False
        return True

    back = time.monotonic() + AWAY_S
    while time.monotonic() < back:
        assert not await answered()
    names.addresses["it.here"] = {"127.0.0.1"}
    async with asyncio.timeout(1.5):
        while not await answered():
            pass
    await channels.close()
    await server.stop(0)
    names.stop()
