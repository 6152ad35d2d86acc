"""Where a server listens, what it says of itself, and how it ends."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from holdfast.kit.errors import NotYetAvailable
from holdfast.kit.process import Refused, Stop
from holdfast.kit.rpc.client import channel, streaming
from holdfast.kit.rpc.limits import MAX_MESSAGE
from holdfast.kit.rpc.reflection import V1, V1ALPHA
from holdfast.kit.rpc.server import Registration, Server, serve
from holdfast.v1 import approval_service_pb2_grpc
from tests.kit.echo import NAME, Echo, EchoStub, add_echo, echo, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def reflected(over: grpc.aio.Channel, service: str, **question: str) -> Any:
    method: Any = over.stream_stream(
        f"/{service}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    async with streaming(method(iter([reflection_pb2.ServerReflectionRequest(**question)]))) as call:
        return await call.read()


async def test_every_arity_works_through_all_layers() -> None:
    async with echo() as stub:
        assert (await stub.one(StringValue(value="a"))).value == "a"
        assert [part.value async for part in stub.many(StringValue(value="a"))] == ["a0", "a1", "a2"]
        assert (await stub.gather(iter([StringValue(value="a"), StringValue(value="b")]))).value == "ab"
        talk = stub.talk()
        for word in ("x", "y"):
            await talk.write(StringValue(value=word))
            assert (await talk.read()).value == word.upper()
        await talk.done_writing()
        assert await talk.read() is grpc.aio.EOF


async def test_a_busy_port_is_refused_in_a_sentence_that_names_it() -> None:
    async with serving(Echo()) as server:
        second = Server([], server.address)
        with pytest.raises(Refused, match=server.address):
            await second.start()
        await second.stop(0)


async def test_a_port_that_another_program_holds_is_refused_too() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server([], f"localhost:{taken.getsockname()[1]}")
        with pytest.raises(Refused, match="in use"):
            await server.start()
        await server.stop(0)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "example.com:1", "192.0.2.1:0"])
async def test_without_identity_only_loopback_is_served(address: str) -> None:
    server = Server([], address)
    with pytest.raises(Refused, match="loopback"):
        await server.start()
    await server.stop(0)


@pytest.mark.parametrize("address", ["50051", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", ":1"])
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    server = Server([], address)
    with pytest.raises(Refused, match="host:port"):
        await server.start()
    await server.stop(0)


async def test_a_wider_address_is_served_when_the_operator_says_so() -> None:
    server = Server([], "0.0.0.0:0", allow_insecure_bind=True)
    assert await server.start() > 0
    await server.stop(0)


async def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    server = Server([Registration(lambda *_: None, object(), "x")], f"unix:{tmp_path}/s")
    assert await server.start() == 0
    async with channel(server.address) as over:
        answer = await health_pb2_grpc.HealthStub(over).Check(health_pb2.HealthCheckRequest())
    assert answer.status == SERVING
    await server.stop(0)


async def test_health_knows_the_server_and_each_service_and_turns_before_calls_are_cut() -> None:
    release = asyncio.Event()
    entered = asyncio.Event()

    async def slow(_request: Any, _context: Any) -> StringValue:
        entered.set()
        await release.wait()
        return StringValue(value="done")

    async with serving(Echo(one=slow)) as server, channel(server.address) as over, asyncio.timeout(10):
        health = health_pb2_grpc.HealthStub(over)
        for name in ("", NAME):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        async with streaming(health.Watch(health_pb2.HealthCheckRequest())) as watch:
            assert (await watch.read()).status == SERVING
            open_call = asyncio.ensure_future(EchoStub(over).one(StringValue()))
            await entered.wait()
            stopping = asyncio.ensure_future(server.stop(5))
            assert (await watch.read()).status == NOT_SERVING
        release.set()
        assert (await open_call).value == "done"
        await stopping
        await server.stop(5)


async def test_serving_announces_itself_and_drains_before_it_cuts(capsys: pytest.CaptureFixture[str]) -> None:
    stop, drained = Stop(), asyncio.Event()
    found: list[int] = []

    async def drain() -> None:
        async with channel(json.loads(capsys.readouterr().out)["address"]) as over:
            answer = await health_pb2_grpc.HealthStub(over).Check(health_pb2.HealthCheckRequest())
        found.append(answer.status)
        drained.set()

    async with asyncio.timeout(10):
        stop.ask("test")
        registration = Registration(add_echo, Echo(), NAME)
        await serve([registration], "127.0.0.1:0", stop, service="echo", grace=1, drain=drain)
    assert drained.is_set()
    assert found == [NOT_SERVING]


@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_reflection_lists_and_resolves_services_itself_and_error_details(version: str) -> None:
    async with serving(Echo()) as server, channel(server.address) as over:
        listed = await reflected(over, version, list_services="")
        names = {service.name for service in listed.list_services_response.service}
        assert names == {NAME, "grpc.health.v1.Health", V1, V1ALPHA}
        for symbol in ("grpc.health.v1.Health", V1, V1ALPHA, "google.rpc.BadRequest"):
            answer = await reflected(over, version, file_containing_symbol=symbol)
            files = answer.file_descriptor_response.file_descriptor_proto
            packages = {descriptor_pb2.FileDescriptorProto.FromString(file).package for file in files}
            assert symbol.rpartition(".")[0] in packages


async def test_an_rpc_that_a_servicer_does_not_define_is_unimplemented_by_name() -> None:
    class Some(approval_service_pb2_grpc.ApprovalServiceServicer):
        pass

    registration = Registration(
        approval_service_pb2_grpc.add_ApprovalServiceServicer_to_server,
        Some(),  # type: ignore[abstract]
        "holdfast.v1.ApprovalService",
    )
    server = Server([registration], "127.0.0.1:0")
    await server.start()
    async with channel(server.address) as over:
        bare: Any = over.unary_unary
        call = bare("/holdfast.v1.ApprovalService/GetApproval")(b"")
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "GetApproval" in await call.details()
        assert (
            NotYetAvailable.reason.encode() in dict(await call.trailing_metadata())["grpc-status-details-bin"]
        )
        unknown = bare("/nobody.Knows/This")(b"")
        assert await unknown.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop(0)


async def test_a_message_over_the_limit_is_refused_and_one_just_below_is_not() -> None:
    async with echo() as stub:
        fits = "x" * (MAX_MESSAGE - 100)
        assert (await stub.one(StringValue(value=fits))).value == fits
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue(value="x" * (MAX_MESSAGE + 1)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_leaving_a_stream_early_ends_its_handler() -> None:
    ended = asyncio.Event()

    async def endless(_request: Any, _context: Any) -> Any:
        try:
            while True:
                yield StringValue(value="x")
                await asyncio.sleep(0)
        finally:
            ended.set()

    async with echo(Echo(many=endless)) as stub, asyncio.timeout(5):
        async with streaming(stub.many(StringValue())) as call:
            await call.read()
        await ended.wait()
