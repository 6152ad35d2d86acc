"""What a handler raises, and what its client gets to see of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.kit.errors import (
    FAULTS,
    Fault,
    InvalidField,
    LedgerUnavailable,
    QueueFull,
    RunNotFound,
    Status,
    Violation,
)
from holdfast.kit.rpc.status import DOMAIN, LIMIT, to_grpc, to_status
from holdfast.v1 import error_reason_pb2
from tests.kit.echo import Echo, echo
from tests.kit.until import calls

RPCS = ("one", "many", "gather", "talk")
SECRET = "the-password-is-hunter2"


def detail(status: Any, kind: type[Any]) -> Any:
    messages = [(packed, kind()) for packed in status.details]
    return next((message for packed, message in messages if packed.Unpack(message)), None)


def raising(error: Exception) -> Echo:
    """Return an Echo whose every RPC reads its first request and raises.

    It reads, because a client of grpc.aio that is still sending when the stream ends may report its own
    failed write (INTERNAL, without details) in place of the server's status.
    """

    async def unary(_request: Any, _context: Any) -> StringValue:
        raise error

    async def many(request: Any, context: Any) -> AsyncIterator[StringValue]:
        yield await unary(request, context)

    async def gather(requests: AsyncIterator[Any], context: Any) -> StringValue:
        return await unary(await anext(aiter(requests)), context)

    async def talk(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[StringValue]:
        yield await unary(await anext(aiter(requests)), context)

    return Echo(one=unary, many=many, gather=gather, talk=talk)


def test_every_reason_of_the_contract_has_one_class_and_the_other_way_round() -> None:
    prefix = "ERROR_REASON_"
    reasons = {
        name.removeprefix(prefix) for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    } - {"UNSPECIFIED"}
    assert set(FAULTS) == reasons


@pytest.mark.parametrize("kind", FAULTS.values(), ids=list(FAULTS))
def test_every_fault_becomes_the_grpc_status_it_names(kind: type[Fault]) -> None:
    status = to_grpc(kind("A sentence."))
    assert status.code is grpc.StatusCode[kind.status.value]
    info = detail(to_status(kind("A sentence.", facts={"a": "b"})), error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason, dict(info.metadata)) == (DOMAIN, kind.reason, {"a": "b"})


def test_the_contract_names_the_status_that_the_class_has() -> None:
    assert {status.value for status in Status} == {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("rpc", RPCS)
async def test_a_fault_reaches_the_client_whole_from_every_arity(rpc: str) -> None:
    fault = QueueFull("The queue is full.", facts={"depth": "9"}, retry_after=1.5, quota="queue_depth")
    async with echo(raising(fault)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.all()[rpc](StringValue(value="x"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "The queue is full."
    status = rpc_status.from_call(caught.value)
    assert detail(status, error_details_pb2.ErrorInfo).metadata["depth"] == "9"
    retry = detail(status, error_details_pb2.RetryInfo).retry_delay
    assert (retry.seconds, retry.nanos) == (1, 500_000_000)
    assert detail(status, error_details_pb2.QuotaFailure).violations[0].subject == "queue_depth"


@pytest.mark.parametrize("rpc", RPCS)
async def test_an_unexpected_error_reaches_the_client_as_an_id_that_the_log_has_too(
    rpc: str, lines: list[dict[str, Any]]
) -> None:
    async with echo(raising(RuntimeError(SECRET))) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.all()[rpc](StringValue(value="x"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in repr(caught.value)
    error_id = detail(rpc_status.from_call(caught.value), error_details_pb2.ErrorInfo).metadata["error_id"]
    [line] = [line for line in lines if line["event"] == "unexpected error"]
    assert line["error_id"] == error_id
    assert SECRET in line["error_text"]


async def test_a_response_of_the_wrong_type_leaks_nothing_either() -> None:
    async def wrong(_request: Any, _context: Any) -> Any:
        return {SECRET: 1}

    async def wrong_stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield {SECRET: 1}

    async with echo(Echo(one=wrong, many=wrong_stream, gather=wrong, talk=wrong_stream)) as stub:
        for rpc in RPCS:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.all()[rpc](StringValue(value="x"))
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("rpc", RPCS)
async def test_bytes_that_are_no_message_are_an_invalid_argument(rpc: str) -> None:
    async with echo(raw=True) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.all()[rpc](b"\xff\xff\xff")  # type: ignore[arg-type]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(rpc_status.from_call(caught.value), error_details_pb2.BadRequest).field_violations


async def test_text_that_is_no_utf_8_is_an_invalid_argument() -> None:
    async with echo(raw=True) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(b"\x0a\x02\xc3\x28")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_exception_that_the_service_can_translate_is_translated(lines: list[dict[str, Any]]) -> None:
    def translate(error: BaseException) -> Fault | None:
        return LedgerUnavailable("The ledger cannot be reached.") if isinstance(error, OSError) else None

    async with echo(raising(ConnectionResetError(SECRET)), translate=translate) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [line["reason"] for line in lines if line["event"] == "call failed"] == ["LEDGER_UNAVAILABLE"]


async def test_a_fault_in_a_task_group_of_the_handler_is_found(lines: list[dict[str, Any]]) -> None:
    async def grouped(_request: Any, _context: Any) -> StringValue:
        async def missing() -> None:
            raise RunNotFound("There is no such run.")

        async with asyncio.TaskGroup() as group:
            group.create_task(missing())
        return StringValue()

    async with echo(Echo(one=grouped)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue())
        assert [line["code"] for line in await calls(lines)] == ["NOT_FOUND"]
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_abort_of_the_handler_keeps_its_code() -> None:
    async def aborting(_request: Any, context: Any) -> StringValue:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        raise AssertionError

    async with echo(Echo(one=aborting)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone")


async def test_a_stream_that_faults_midway_keeps_what_it_has_sent() -> None:
    async def some(_request: Any, _context: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        raise RunNotFound("There is no such run.")

    received = []
    async with echo(Echo(many=some)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            received.extend([message.value async for message in stub.many(StringValue())])
        call = stub.many(StringValue())
        assert (await call.read()).value == "first"
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_thousand_violations_are_cut_to_what_metadata_carries_and_counted() -> None:
    violations = [Violation(f"items[{n}].name", "must not be empty " * 20) for n in range(1000)]
    fault = InvalidField("x" * 9000, violations=violations, facts={f"fact{n}": "é" * 900 for n in range(30)})
    assert to_status(fault).ByteSize() <= LIMIT
    async with echo(raising(fault)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.one(StringValue())
    bad = detail(rpc_status.from_call(caught.value), error_details_pb2.BadRequest)
    listed = len(bad.field_violations) - 1
    assert bad.field_violations[-1].description == f"{1000 - listed} more violations are not listed"
    assert listed > 0


def test_text_that_utf_8_cannot_hold_still_makes_a_status() -> None:
    assert (
        to_status(RunNotFound("lone \ud800 surrogate", facts={"a": "\ud800"})).message == "lone ? surrogate"
    )


async def test_a_cancelled_call_ends_its_handler_with_a_cancellation_and_no_error_line(
    lines: list[dict[str, Any]],
) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def waiting(_request: Any, _context: Any) -> StringValue:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with echo(Echo(one=waiting)) as stub, asyncio.timeout(5):
        task = asyncio.ensure_future(stub.one(StringValue()))
        await entered.wait()
        task.cancel()
        await ended.wait()
        assert [line["code"] for line in await calls(lines)] == ["CANCELLED"]
    assert [line for line in lines if line["level"] == "error"] == []
