"""What a handler knows of its call: the tenant, the time left, and what the log says afterwards."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast.kit.errors import InvalidField, RunNotFound, TenantMismatch
from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.deadline import detach, remaining
from holdfast.kit.rpc.tenant import KEY, agree, current_tenant, valid_tenant
from tests.kit.echo import NAME, Echo, EchoStub, echo, serving
from tests.kit.until import calls


def tenants() -> Echo:
    async def unary(_request: Any, _context: Any) -> StringValue:
        return StringValue(value=current_tenant())

    async def stream(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        await asyncio.sleep(0)
        yield StringValue(value=current_tenant())

    return Echo(one=unary, many=stream, gather=unary, talk=stream)


async def named(stub: EchoStub, *metadata: tuple[str, str | bytes]) -> list[str]:
    """Return the tenant that each arity sees."""
    requests = [StringValue()]
    return [
        (await stub.one(requests[0], metadata=metadata)).value,
        *[answer.value async for answer in stub.many(requests[0], metadata=metadata)],
        (await stub.gather(iter(requests), metadata=metadata)).value,
        *[answer.value async for answer in stub.talk(iter(requests), metadata=metadata)],
    ]


async def test_the_tenant_is_that_of_the_metadata_in_every_arity_and_default_without() -> None:
    async with echo(tenants()) as stub:
        assert await named(stub, (KEY, "acme")) == ["acme"] * 4
        assert await named(stub) == ["default"] * 4


async def test_calls_at_the_same_time_keep_their_tenants_apart() -> None:
    async with echo(tenants()) as stub:
        names = [f"t{number}" for number in range(50)]
        seen = await asyncio.gather(*(named(stub, (KEY, name)) for name in names))
    assert seen == [[name] * 4 for name in names]


@pytest.mark.parametrize("name", ["", " ", "x" * 256])
async def test_a_name_that_is_none_is_refused(name: str) -> None:
    async with echo(tenants()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue(), metadata=((KEY, name),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["a\tb", "a\x00", " a", b"\xff\xfe", "\ud800"])
def test_a_name_that_cannot_be_printed_is_refused_from_wherever_it_comes(name: str | bytes) -> None:
    with pytest.raises(InvalidField):
        valid_tenant(name)


async def test_two_tenants_in_one_call_are_refused_and_the_same_twice_is_not() -> None:
    async with echo(tenants()) as stub:
        assert await named(stub, (KEY, "a"), (KEY, "a")) == ["a"] * 4
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await named(stub, (KEY, "a"), (KEY, "b"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_claimed_tenant_must_be_the_calls() -> None:
    assert agree("") == "default"
    assert agree("default") == "default"
    with pytest.raises(TenantMismatch):
        agree("other")


async def test_a_handler_knows_how_long_its_caller_waits() -> None:
    async def left(_request: Any, _context: Any) -> StringValue:
        return StringValue(value=repr(remaining()))

    async with echo(Echo(one=left)) as stub:
        assert (await stub.one(StringValue())).value == "None"
        assert 8 < float((await stub.one(StringValue(), timeout=10)).value) < 10.5  # gRPC rounds
    assert remaining() is None


async def test_a_call_made_while_serving_another_gets_no_more_time_than_that_one_has_left() -> None:
    async def left(_request: Any, _context: Any) -> StringValue:
        return StringValue(value=repr(remaining()))

    async with serving(Echo(one=left)) as inner, channel(inner.address) as over:

        async def asking(request: StringValue, _context: Any) -> StringValue:
            timeout = float(request.value) if request.value else None
            answer: StringValue = await EchoStub(over).one(StringValue(), timeout=timeout)
            return answer

        async with echo(Echo(one=asking)) as stub:
            assert float((await stub.one(StringValue(), timeout=5)).value) < 5.5
            assert float((await stub.one(StringValue(value="60"), timeout=5)).value) < 5.5
            assert float((await stub.one(StringValue(value="2"), timeout=5)).value) < 2.5
            assert (await stub.one(StringValue())).value == "None"


async def test_each_call_leaves_one_line_and_health_none(lines: list[dict[str, Any]]) -> None:
    async with serving(Echo()) as server, channel(server.address) as over:
        await EchoStub(over).one(StringValue(value="a payload"))
        await health_pb2_grpc.HealthStub(over).Check(health_pb2.HealthCheckRequest())
        [line] = await calls(lines)
    assert (line["method"], line["code"], line["level"]) == (f"/{NAME}/One", "OK", "info")
    assert line["ms"] >= 0
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert "a payload" not in str(lines)


async def test_a_hot_method_that_went_well_is_a_line_for_developers_only(lines: list[dict[str, Any]]) -> None:
    async with echo(hot=[f"/{NAME}/One"]) as stub:
        await stub.one(StringValue())
        assert [line["level"] for line in await calls(lines)] == ["debug"]


async def test_a_call_that_runs_into_its_deadline_is_logged_as_such(lines: list[dict[str, Any]]) -> None:
    ended = asyncio.Event()

    async def forever(_request: Any, _context: Any) -> StringValue:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with echo(Echo(one=forever)) as stub, asyncio.timeout(5):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue(), timeout=0.1)
        await ended.wait()
        assert [line["code"] for line in await calls(lines)] == ["DEADLINE_EXCEEDED"]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("failure", "code", "level"),
    [(RunNotFound("No."), "NOT_FOUND", "info"), (RuntimeError("odd"), "INTERNAL", "warning")],
)
async def test_the_line_holds_the_code_that_the_client_got(
    failure: Exception, code: str, level: str, lines: list[dict[str, Any]]
) -> None:
    async def failing(_request: Any, _context: Any) -> StringValue:
        raise failure

    async with echo(Echo(one=failing)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue())
        assert [(line["code"], line["level"]) for line in await calls(lines)] == [(code, level)]
    assert caught.value.code().name == code


async def test_work_that_outlives_its_call_can_forget_the_deadline() -> None:
    async def detached() -> float | None:
        detach()
        return remaining()

    async def starting(_request: Any, _context: Any) -> StringValue:
        outliving = await asyncio.create_task(detached())
        return StringValue(value=f"{outliving} {remaining() is not None}")

    async with echo(Echo(one=starting)) as stub:
        assert (await stub.one(StringValue(), timeout=5)).value == "None True"
