"""What a live suite serves is what the contract says: every RPC, health, both reflections."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from holdfast.client import errors
from holdfast.client.wire_status import error_of
from tests.contract.description import PACKAGE, Rpc, contract, errors_of, rpcs

SERVED_BY = {
    "AccessService": "invoker",
    "ApprovalService": "approval",
    "BatchService": "invoker",
    "CheckpointService": "checkpoint",
    "EventService": "invoker",
    "InvokerService": "invoker",
    "OutboxService": "dispatcher",
    "RunnerService": "runner",
    "ScheduleService": "invoker",
    "TenantService": "invoker",
    "WorkService": "invoker",
}
FOREIGN = {"invoker": {"externalscaler.ExternalScaler"}}
"""What KEDA calls, by the process that serves it; no part of the contract."""
REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
PATIENCE_S = 10.0


def place_of(service: str) -> str:
    return SERVED_BY[service.removeprefix(f"{PACKAGE}.")]


def arity(channel: grpc.aio.Channel, rpc: Rpc) -> Any:
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    return kinds[rpc.client_streaming, rpc.server_streaming](rpc.path)


async def answer(address: str, rpc: Rpc) -> errors.HoldfastError | None:
    """Call an RPC with one empty message; return how it refuses it, None if it does not."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = arity(channel, rpc)(iter([b""]) if rpc.client_streaming else b"", timeout=PATIENCE_S)
        try:
            if rpc.server_streaming:
                await call.read()
            else:
                await call
        except grpc.aio.AioRpcError as failure:
            return error_of(failure)
        finally:
            call.cancel()
    return None


async def reflected(channel: grpc.aio.Channel, service: str, **question: str) -> Any:
    method: Any = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = method(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=PATIENCE_S)
    return await call.read()


async def test_an_rpc_is_served_unless_its_comment_says_not_yet(suite: dict[str, str]) -> None:
    for rpc in rpcs():
        refusal = await answer(suite[place_of(rpc.service)], rpc)
        if "NOT_YET_AVAILABLE" in errors_of(rpc):
            assert isinstance(refusal, errors.NotYetAvailable), f"{rpc.path}: {refusal!r}"
            assert refusal.code == "UNIMPLEMENTED"
            assert refusal.message.endswith("."), f"{rpc.path} refuses without a sentence"
            assert " " in refusal.message
        else:
            assert refusal is None or refusal.code != "UNIMPLEMENTED", f"{rpc.path}: {refusal!r}"


async def test_an_empty_request_is_refused_with_a_reason_that_the_rpc_names(suite: dict[str, str]) -> None:
    refused = 0
    for rpc in rpcs():
        refusal = await answer(suite[place_of(rpc.service)], rpc)
        if refusal is not None:
            refused += 1
            assert refusal.reason in errors_of(rpc), f"{rpc.path}: {refusal!r}"
    assert refused > 40


async def test_each_service_is_healthy_under_its_name(suite: dict[str, str]) -> None:
    for name in SERVED_BY:
        async with grpc.aio.insecure_channel(suite[SERVED_BY[name]]) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            for service in ("", f"{PACKAGE}.{name}"):
                told = await check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
                assert told.status == health_pb2.HealthCheckResponse.SERVING, name


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_each_process_tells_what_it_serves(suite: dict[str, str], reflection: str) -> None:
    for place in set(SERVED_BY.values()):
        mine = {f"{PACKAGE}.{name}" for name, at in SERVED_BY.items() if at == place}
        async with grpc.aio.insecure_channel(suite[place]) as channel:
            listed = await reflected(channel, reflection, list_services="*")
            told = {service.name for service in listed.list_services_response.service}
            assert told == mine | FOREIGN.get(place, set()) | {"grpc.health.v1.Health", *REFLECTIONS}
            for service in mine:
                await described(channel, reflection, service)


async def described(channel: grpc.aio.Channel, reflection: str, service: str) -> None:
    """Check that a service and each of its methods resolve to our file, with all it imports."""
    own = next(file for file in contract() for each in file.service if f"{PACKAGE}.{each.name}" == service)
    methods = [f"{service}.{rpc.method}" for rpc in rpcs() if rpc.service == service]
    for symbol in (service, *methods):
        found = await reflected(channel, reflection, file_containing_symbol=symbol)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(one)
            for one in found.file_descriptor_response.file_descriptor_proto
        ]
        names = {file.name for file in files}
        assert own.name in names, symbol
        assert {imported for file in files for imported in file.dependency} <= names


async def test_calls_at_once_over_one_channel_are_told_apart_by_tenant(suite: dict[str, str]) -> None:
    async with grpc.aio.insecure_channel(suite["invoker"]) as channel:
        lists = next(rpc for rpc in rpcs() if rpc.method == "ListRuns")
        calls = [arity(channel, lists)(b"", metadata=[("holdfast-tenant", f"t{n}")]) for n in range(20)]
        assert await asyncio.gather(*calls) == [b""] * 20
