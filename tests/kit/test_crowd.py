"""A server lets in as many calls as it was told, tells the rest to come again, and forgets none that end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from holdfast.kit.auth.access import Access
from holdfast.kit.bounds import Bounds
from holdfast.kit.errors import TooManyCalls
from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.crowd import CrowdLayer
from holdfast.kit.rpc.status import reason_of
from holdfast.kit.rpc.tenant import KEY
from tests.kit.echo import NAME, Echo, EchoStub, echo, serving
from tests.kit.test_faults import detail

A = StringValue(value="a")


class Slow(Echo):
    """Answers `one` when it is let go, counting who is in, and fails whoever asks for `many`."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        self.entered = asyncio.Condition()
        self.go = asyncio.Event()

    async def one(self, request: StringValue, _context: Any) -> StringValue:
        async with self.entered:
            self.inside += 1
            self.entered.notify_all()
        try:
            await self.go.wait()
        finally:
            self.inside -= 1
        return request

    async def many(self, request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        yield request
        raise RuntimeError("broken")

    async def until(self, count: int) -> None:
        """Wait until so many are in."""
        async with self.entered:
            await asyncio.wait_for(self.entered.wait_for(lambda: self.inside == count), 10)


def of(tenant: str) -> Any:
    return ((KEY, tenant),)


async def refused(call: Any, quota: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(caught.value) == TooManyCalls.reason
    status = rpc_status.from_call(caught.value)
    assert detail(status, RetryInfo).retry_delay.seconds == 1
    assert detail(status, QuotaFailure).violations[0].subject == quota


async def test_a_tenant_at_its_bound_is_refused_and_another_is_not() -> None:
    slow = Slow()
    async with echo(slow, access=Access(bounds=Bounds(calls_per_tenant=2))) as stub:
        held = [asyncio.ensure_future(stub.one(A, metadata=of("noisy"))) for _ in range(2)]
        await slow.until(2)
        await refused(stub.one(A, metadata=of("noisy")), "calls_per_tenant")
        other = asyncio.ensure_future(stub.one(A, metadata=of("quiet")))
        await slow.until(3)
        slow.go.set()
        await asyncio.gather(*held, other)
        await stub.one(A, metadata=of("noisy"))


async def test_calls_that_are_cancelled_or_fail_make_room() -> None:
    slow = Slow()

    async with echo(slow, access=Access(bounds=Bounds(calls=1))) as stub:
        for _ in range(3):
            call = stub.one(A)
            await slow.until(1)
            call.cancel()
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in stub.many(A):
                    pass
        slow.go.set()
        await stub.one(A)


async def test_an_open_stream_counts_until_it_ends_and_a_method_may_have_a_bound_of_its_own() -> None:
    bounds = Bounds(by_method={f"/{NAME}/Talk": 1})
    async with echo(access=Access(bounds=bounds)) as stub:
        first = stub.talk()
        await first.write(A)
        assert (await first.read()).value == "A"
        second = stub.talk()
        await refused(second.read(), "calls_by_method")
        await stub.one(A)  # another method
        other = stub.talk(metadata=of("other"))
        await other.write(A)
        assert (await other.read()).value == "A"
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        third = stub.talk()
        await third.write(A)
        assert (await third.read()).value == "A"
        third.cancel()
        other.cancel()


async def test_runners_and_keda_get_into_a_server_that_is_full_and_take_no_room() -> None:
    layer = CrowdLayer(Bounds(calls=1, calls_per_tenant=1))
    open_calls: list[asyncio.Task[Any]] = []
    go = asyncio.Event()

    async def held(_request: Any, _context: Any) -> str:
        await go.wait()
        return "served"

    def call(method: str) -> "asyncio.Task[Any]":
        open_calls.append(asyncio.ensure_future(layer.around(method, held)(None, cast("Any", None))))
        return open_calls[-1]

    for method in ("/holdfast.v1.WorkService/Lease", "/externalscaler.ExternalScaler/GetMetrics"):
        call(method)
        call(method)
    call("/holdfast.v1.InvokerService/WatchRun")
    await asyncio.sleep(0)
    with pytest.raises(TooManyCalls):
        await call("/holdfast.v1.InvokerService/WatchRun")
    call("/holdfast.v1.WorkService/Lease")
    go.set()
    answers = await asyncio.gather(*open_calls, return_exceptions=True)
    assert answers.count("served") == 6


async def test_health_gets_into_a_server_that_is_full() -> None:
    slow = Slow()
    async with (
        serving(slow, access=Access(bounds=Bounds(calls=1))) as server,
        channel(server.address) as over,
    ):
        held = asyncio.ensure_future(EchoStub(over).one(A))
        await slow.until(1)
        await refused(EchoStub(over).one(A), "calls")
        health = await HealthStub(over).Check(HealthCheckRequest())
        assert health.status == HealthCheckResponse.SERVING
        slow.go.set()
        await held


@pytest.mark.parametrize("shown", [True, False])
async def test_reflection_can_be_off(shown: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    async with (
        serving(Echo(), access=Access(bounds=Bounds(reflection=shown))) as server,
        channel(server.address) as over,
    ):
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(over).ServerReflectionInfo(iter([asked]))
        if shown:
            answer = await call.read()
            assert NAME in {each.name for each in answer.list_services_response.service}
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
