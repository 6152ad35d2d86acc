"""A conversation: start or attach, cancel, one run after another, and what happens when the client leaves."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import pytest

from holdfast.kit.rpc.client import channel
from holdfast.v1 import run_pb2
from tests.invoker.runner import Held, Runner
from tests.invoker.stand import Invoker, fields_of, invoker, of_tenant, pb, reason_of
from tests.kit.until import until


def start(**more: Any) -> Any:
    on_disconnect = more.pop("on_disconnect", 0)
    invocation = {"intent": "count", **more}
    return pb.ConverseRequest(start={"invocation": invocation, "on_disconnect": on_disconnect})


def attach(**more: Any) -> Any:
    return pb.ConverseRequest(attach=more)


CANCEL = pb.ConverseRequest(cancel={"reason": "enough"})


async def ended(call: Any) -> Any:
    """Read until the run's end."""
    async with asyncio.timeout(10):
        while True:
            update = await call.read()
            assert update is not grpc.aio.EOF
            if update.event.HasField("ended"):
                return update.event.ended.outcome


async def test_several_runs_follow_each_other_on_one_stream(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    for n in range(3):
        await call.write(start(idempotency_key=f"{n}"))
        started = (await call.read()).started
        assert started.run.idempotency_key == f"{n}"
        held = await worker.take(started.run.run_id)
        held.show("hello")
        assert (await call.read()).event.HasField("accepted")
        assert (await call.read()).event.said.text == "hello"
        await worker.end(held)
        assert (await ended(call)).status == run_pb2.RUN_STATUS_SUCCEEDED
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_runs_asked_for_at_once_are_started_one_after_the_other(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    for n in range(3):
        await call.write(start(idempotency_key=f"{n}"))
    await call.done_writing()
    for n in range(3):
        started = (await call.read()).started
        assert started.run.idempotency_key == f"{n}"
        held = await worker.take(started.run.run_id)
        assert len(worker.held) == 1
        await worker.end(held)
        await ended(call)
    assert await call.read() is grpc.aio.EOF


async def test_a_cancel_right_behind_the_start_cancels_that_run(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    for n in range(2):
        await call.write(start(idempotency_key=f"{n}"))
        await call.write(CANCEL)
        run_id = (await call.read()).started.run.run_id
        # A runner not heard of for a while gets nothing at once: then the run ends while it is queued.
        taking = asyncio.create_task(worker.take(run_id))
        stopping = asyncio.create_task(_stopped(worker, taking))
        assert (await ended(call)).status == run_pb2.RUN_STATUS_CANCELLED
        taking.cancel()
        with suppress(asyncio.CancelledError):
            await stopping
    await call.write(CANCEL)  # it may have been on its way when the run ended
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def _stopped(worker: Runner, taking: asyncio.Task[Held]) -> None:
    """Stop a run once the runner has it and is told to."""
    held = await taking
    run_id = held.run_id
    await until(partial(worker.cancels.__contains__, run_id))
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_CANCELLED)
    held.show_end(outcome)
    await worker.commit(held, end=outcome)
    worker.forget(held)
    await worker.credit(1, [run_id])


async def test_attach_follows_a_run_by_id_or_key_from_a_cursor(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke(idempotency_key="mine")).run.run_id
    held = await worker.take(run_id)
    held.show("a", "b")
    await worker.end(held)
    for how in ({"run_id": run_id}, {"idempotency_key": "mine"}):
        call = door.invoker.Converse(iter([attach(after_sequence=2, **how)]))
        started = (await call.read()).started
        assert started.reattached
        assert (await call.read()).event.said.text == "b"
        await ended(call)
        assert await call.read() is grpc.aio.EOF


async def test_a_run_is_cancelled_when_its_client_leaves_only_if_it_said_so(
    door: Invoker, worker: Runner
) -> None:
    goes_on = door.invoker.Converse()
    await goes_on.write(start(idempotency_key="on"))
    stays = (await goes_on.read()).started.run.run_id
    leaving = door.invoker.Converse()
    await leaving.write(start(idempotency_key="off", on_disconnect=run_pb2.ON_DISCONNECT_CANCEL))
    stops = (await leaving.read()).started.run.run_id
    await worker.take(stops)
    goes_on.cancel()
    leaving.cancel()
    await until(lambda: stops in worker.cancels)
    assert not (await door.run(stays)).cancel_requested


async def test_a_client_that_closes_its_side_hears_the_run_out(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse(iter([start(on_disconnect=run_pb2.ON_DISCONNECT_CANCEL)]))
    run_id = (await call.read()).started.run.run_id
    await worker.end(await worker.take(run_id))
    assert (await ended(call)).status == run_pb2.RUN_STATUS_SUCCEEDED
    assert await call.read() is grpc.aio.EOF
    assert not worker.cancels


async def test_words_out_of_order_end_the_conversation(door: Invoker, worker: Runner) -> None:
    del worker
    for first, reason in (
        (CANCEL, "STREAM_PROTOCOL"),
        (pb.ConverseRequest(input={"key": "x"}), "STREAM_PROTOCOL"),
        (pb.ConverseRequest(interrupt={}), "STREAM_PROTOCOL"),
        (pb.ConverseRequest(), "STREAM_PROTOCOL"),
        (pb.ConverseRequest(input={"key": "x\0"}), "INVALID_FIELD"),
        (pb.ConverseRequest(interrupt={"signal_id": "x" * 256}), "INVALID_FIELD"),
        (pb.ConverseRequest(decide={"approved": True}), "INVALID_FIELD"),
    ):
        for before in ([], [start(idempotency_key=reason)]):
            if first.WhichOneof("message") and reason == "STREAM_PROTOCOL" and before:
                continue  # in order, then
            call = door.invoker.Converse()
            for message in before:
                await call.write(message)
                assert (await call.read()).HasField("started")
            await call.write(first)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ended(call)
            assert reason_of(caught.value) == reason


async def test_a_run_is_cancelled_wherever_it_is(door: Invoker, worker: Runner) -> None:
    await door.invoke(idempotency_key="0", ordering_key="k")
    queued = (await door.invoke(idempotency_key="1", ordering_key="k")).run.run_id
    answer = await door.invoker.CancelRun(pb.CancelRunRequest(run_id=queued, reason="late"))
    assert answer.run.status == run_pb2.RUN_STATUS_CANCELLED
    assert answer.run.outcome.failure.message == "late"
    held = await worker.take()
    for _ in range(2):
        answer = await door.invoker.CancelRun(pb.CancelRunRequest(run_id=held.run_id))
        assert answer.run.status == run_pb2.RUN_STATUS_RUNNING
        assert answer.run.cancel_requested
    await until(lambda: held.run_id in worker.cancels)
    await worker.end(held)
    answer = await door.invoker.CancelRun(pb.CancelRunRequest(run_id=held.run_id))
    assert answer.run.status == run_pb2.RUN_STATUS_SUCCEEDED


async def test_a_cancel_reaches_a_runner_of_another_invoker(
    door: Invoker, worker: Runner, database_url: str
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    async with invoker(database_url, heartbeat_interval=0.5) as other:
        await other.invoker.CancelRun(pb.CancelRunRequest(run_id=held.run_id))
        await until(lambda: held.run_id in worker.cancels)


@pytest.mark.parametrize(
    ("first", "reason", "field"),
    [
        ({"run_id": "00000000-0000-7000-8000-000000000000"}, "RUN_NOT_FOUND", None),
        ({"idempotency_key": "nobody's"}, "RUN_NOT_FOUND", None),
        ({"run_id": "mine", "after_sequence": 99}, "SEQUENCE_OUT_OF_RANGE", None),
        ({"run_id": "mine", "after_sequence": -1}, "INVALID_FIELD", "attach.after_sequence"),
        ({"run_id": "mine", "after_epoch": -1}, "INVALID_FIELD", "attach.after_epoch"),
        ({"run_id": "mine", "idempotency_key": "mine"}, "INVALID_FIELD", "attach.run_id"),
        ({}, "INVALID_FIELD", "attach.run_id"),
        ({"run_id": "no uuid"}, "INVALID_FIELD", "attach.run_id"),
    ],
)
async def test_an_attach_that_leads_nowhere_is_refused(
    door: Invoker, worker: Runner, first: dict[str, Any], reason: str, field: str | None
) -> None:
    run_id = (await door.invoke(idempotency_key="mine")).run.run_id
    await worker.end(await worker.take(run_id))
    if first.get("run_id") == "mine":
        first = first | {"run_id": run_id}
    error = await refused(door.invoker.Converse(iter([attach(**first)])))
    assert reason_of(error) == reason
    if field:
        assert fields_of(error) == [field]


async def test_a_run_of_another_tenant_does_not_exist(door: Invoker, worker: Runner) -> None:
    del worker
    run_id = (await door.invoke(idempotency_key="mine")).run.run_id
    for how in ({"run_id": run_id}, {"idempotency_key": "mine"}):
        call = door.invoker.Converse(iter([attach(**how)]), metadata=of_tenant("another"))
        assert reason_of(await refused(call)) == "RUN_NOT_FOUND"


async def test_a_start_that_is_refused_ends_the_conversation_and_starts_nothing(
    door: Invoker, worker: Runner
) -> None:
    del worker
    for message, reason in (
        (start(intent="nonsense"), "UNKNOWN_INTENT"),
        (start(intent=""), "INVALID_FIELD"),
        (start(on_disconnect=77), "INVALID_FIELD"),
        (pb.ConverseRequest(start={}), "INVALID_FIELD"),
    ):
        assert reason_of(await refused(door.invoker.Converse(iter([message])))) == reason
    assert not (await door.invoker.ListRuns(pb.ListRunsRequest())).runs


async def test_what_is_no_message_ends_only_that_conversation(door: Invoker, worker: Runner) -> None:
    good = door.invoker.Converse()
    await good.write(start())
    held = await worker.take((await good.read()).started.run.run_id)
    async with channel(door.address) as opened:
        raw: Any = opened.stream_stream("/holdfast.v1.InvokerService/Converse")
        later = raw(iter([b"\xfa\x3e\x03new"]))  # a field that only a later contract knows
        assert reason_of(await refused(later)) == "STREAM_PROTOCOL"
        garbage = await refused(raw(iter([b"\xff\xff\xff"])))
        assert garbage.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT}
    await worker.end(held)
    assert (await ended(good)).status == run_pb2.RUN_STATUS_SUCCEEDED


async def test_a_flood_of_starts_is_taken_one_at_a_time(door: Invoker, worker: Runner) -> None:
    flood = door.invoker.Converse()
    writing = asyncio.create_task(_write(flood, [start(idempotency_key=f"{n}") for n in range(20_000)]))
    first = (await flood.read()).started.run.run_id
    held = await worker.take(first)
    other = door.invoker.Converse(iter([start(idempotency_key="another's")]))
    other_run = await worker.take((await other.read()).started.run.run_id)
    await worker.end(other_run)
    assert (await ended(other)).status == run_pb2.RUN_STATUS_SUCCEEDED
    assert len((await door.invoker.ListRuns(pb.ListRunsRequest())).runs) == 2
    await worker.end(held)
    await ended(flood)
    assert (await flood.read()).started.run.idempotency_key == "1"
    flood.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await until(lambda: not door.parts.followers._following)
    assert len((await door.invoker.ListRuns(pb.ListRunsRequest())).runs) == 3


async def _write(call: Any, messages: list[Any]) -> None:
    for message in messages:
        await call.write(message)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """Read a conversation to the error it ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(_drain(call), 10)
    return caught.value


async def _drain(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
