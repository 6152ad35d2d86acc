"""Signals at the door: durable, pushed to whoever holds the run, and refused for what they are."""

import asyncio
from typing import Any

import grpc
import pytest

from holdfast.invoker.answers import MOST, Answers, signalled
from holdfast.ledger.domain.mailbox import MAX_WAITING
from holdfast.v1 import run_pb2, work_service_pb2
from tests.invoker.runner import Runner, runner
from tests.invoker.stand import Invoker, facts_of, fields_of, invoker, of_tenant, pb, reason_of
from tests.invoker.test_converse import ended, start
from tests.kit.until import until


async def signal(door: Invoker, run_id: str, text: str = "hi", **more: Any) -> str:
    """Send a signal; return its id."""
    request = pb.SignalRunRequest(**{"run_id": run_id, "key": "input", **more})
    if "payload" not in more:
        request.payload.string_value = text
    return str((await door.invoker.SignalRun(request)).signal_id)


async def answered(call: Any) -> Any:
    """Read until what answers an input."""
    async with asyncio.timeout(10):
        while True:
            update = await call.read()
            assert update is not grpc.aio.EOF
            if update.WhichOneof("update") in {"signalled", "refused"}:
                return getattr(update, update.WhichOneof("update"))


async def test_a_signal_is_pushed_to_the_runner_that_holds_the_run(door: Invoker, worker: Runner) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    for n in range(3):
        assert await signal(door, held.run_id, signal_id=f"s{n}") == f"s{n}"
    made = await signal(door, held.run_id)
    assert len(made) == 36
    await door.invoker.InterruptRun(pb.InterruptRunRequest(run_id=held.run_id))
    await until(lambda: len(worker.signals) == 5)
    assert worker.signals == [*(("input", n) for n in range(1, 5)), ("interrupt", 5)]


async def test_a_signal_reaches_a_runner_of_another_invoker(
    door: Invoker, worker: Runner, database_url: str
) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    async with invoker(database_url) as other:
        await signal(other, held.run_id, "over there")
        await until(lambda: bool(worker.attach_signals))
    (pushed,) = worker.attach_signals
    assert (pushed.payload.string_value, pushed.sequence) == ("over there", 1)
    # The runner's own Invoker cannot know whether that arrived, and tells it again.
    await until(lambda: worker.signals == [("input", 1)])


async def test_what_was_sent_while_a_runner_was_away_is_told_when_it_is_back(
    door: Invoker, worker: Runner
) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    await signal(door, held.run_id)
    await until(lambda: len(worker.signals) == 1)
    await worker.break_stream()
    await signal(door, held.run_id)
    worker.told.clear()
    await worker.connect()
    await until(lambda: bool(worker.told))
    # It loads what was sent until the lease was told again, and is pushed what comes later.
    assert worker.told[0].mailbox_sequence == 2
    await signal(door, held.run_id)
    await until(lambda: len(worker.signals) == 2)
    assert worker.signals[-1] == ("input", 3)


async def test_a_run_is_leased_with_the_sequence_of_what_was_sent_before(door: Invoker, commits: str) -> None:
    async with runner(door.address, commits) as one:
        run_id = (await door.invoke()).run.run_id
        await signal(door, run_id)
        await one.credit(1)
        held = await one.take(run_id)
        assert held.assignment.mailbox_sequence == 1
        await door.parts.mailroom.loop.signal.completed(2)
        assert one.signals == []


async def test_signals_that_are_refused(door: Invoker, worker: Runner) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    deep: dict[str, Any] = {"string_value": "x"}
    for _ in range(31):
        deep = {"list_value": {"values": [deep]}}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"key": ""}, "key"),
        ({"key": "k" * 256}, "key"),
        ({"key": "a\0b"}, "key"),
        ({"signal_id": "s" * 256}, "signal_id"),
        ({"signal_id": "a\0b"}, "signal_id"),
        ({"run_id": "none"}, "run_id"),
        ({"payload": {"string_value": "x" * (1 << 20)}}, "payload"),
        ({"payload": {"string_value": "\x01" * (1 << 18)}}, "payload"),  # six times as long in JSON
        ({"payload": {"string_value": "a\0b"}}, "payload"),
        ({"payload": {"number_value": float("nan")}}, "payload"),
        ({"payload": deep}, "payload"),
    ]
    for bad, field in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await signal(door, bad.pop("run_id", held.run_id), **bad)
        assert (reason_of(caught.value), fields_of(caught.value)) == ("INVALID_FIELD", [field]), bad
    request = pb.SignalRunRequest(run_id=held.run_id, key="input")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.invoker.SignalRun(request, metadata=of_tenant("another"))
    assert reason_of(caught.value) == "RUN_NOT_FOUND"
    await signal(door, held.run_id, signal_id="s")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await signal(door, held.run_id, "other", signal_id="s")
    assert (caught.value.code(), reason_of(caught.value)) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "SIGNAL_ID_REUSED",
    )
    await worker.end(held)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await signal(door, held.run_id)
    assert (reason_of(caught.value), facts_of(caught.value)["status"]) == ("RUN_ENDED", "SUCCEEDED")


async def test_a_full_mailbox_says_so(door: Invoker, worker: Runner) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    for _ in range(4):
        await signal(door, held.run_id, "x" * 1_000_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await signal(door, held.run_id, "x" * 1_000_000)
    assert (caught.value.code(), reason_of(caught.value)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "MAILBOX_FULL",
    )
    await until(lambda: [sequence for _, sequence in worker.signals] == [1, 2, 3, 4])


async def test_an_agent_may_take_no_input(door: Invoker, worker: Runner) -> None:
    await worker.break_stream()
    worker.on_input = work_service_pb2.INPUT_POLICY_REJECT
    await worker.connect(10)
    held = await worker.take((await door.invoke()).run.run_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await signal(door, held.run_id)
    assert (caught.value.code(), reason_of(caught.value)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "INPUT_REJECTED",
    )
    await signal(door, held.run_id, key="decision")


# -- on a conversation ---------------------------------------------------------------------------------------


def said(text: str, **more: Any) -> Any:
    request = pb.ConverseRequest(input=more)
    request.input.payload.string_value = text
    return request


async def test_input_goes_to_the_run_that_is_followed_and_is_answered(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    for n in range(2):
        await call.write(start(idempotency_key=f"{n}"))
        await call.write(said("hello", signal_id="mine"))  # the run may not even be there yet
        await call.write(pb.ConverseRequest(interrupt={}))
        first, second = await answered(call), await answered(call)
        held = await worker.take(first.run_id)
        assert (first.signal_id, len(second.signal_id)) == ("mine", 36)
        async with door.parts.db.connection() as connection:
            query = "SELECT key, urgent, sequence FROM mailbox WHERE run_id::text = $1 ORDER BY sequence"
            found = [tuple(row) for row in await connection.fetch(query, held.run_id)]
        assert found == [("input", False, 1), ("interrupt", True, 2)]
        await worker.end(held)
        await ended(call)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_refused_input_leaves_the_conversation_to_go_on(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    await call.write(start(idempotency_key="0"))
    held = await worker.take()
    await call.write(said("a", signal_id="s"))
    await answered(call)
    await call.write(said("b", signal_id="s"))
    assert (await answered(call)).reason == "SIGNAL_ID_REUSED"
    await worker.end(held)
    await ended(call)
    await call.write(said("too late", signal_id="t"))
    late = await answered(call)
    assert (late.run_id, late.signal_id, late.reason) == (held.run_id, "t", "RUN_ENDED")
    assert late.metadata["status"] == "SUCCEEDED"
    await call.write(start(idempotency_key="1"))
    again = await worker.take()
    await worker.end(again)
    assert (await ended(call)).status == run_pb2.RUN_STATUS_SUCCEEDED
    await call.write(said("after all", signal_id="u"))
    await call.done_writing()
    assert (await answered(call)).reason == "RUN_ENDED"  # told before the end of the stream
    assert await call.read() is grpc.aio.EOF


async def test_a_flood_fills_its_own_mailbox_and_holds_up_nobody_else(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    await call.write(start(idempotency_key="0"))
    held = await worker.take()
    other = (await door.invoke(idempotency_key="1")).run.run_id
    flood = MAX_WAITING + 100

    async def speak() -> None:
        for n in range(flood):
            await call.write(said("x", signal_id=f"{n}"))

    flooding = asyncio.create_task(speak())
    await until(lambda: bool(worker.signals))
    await signal(door, other)
    answers = [await answered(call) for _ in range(flood)]
    await flooding
    assert [answer.signal_id for answer in answers] == [f"{n}" for n in range(flood)]
    refused = [answer for answer in answers if isinstance(answer, pb.ConverseRefused)]
    assert {answer.reason for answer in refused} == {"MAILBOX_FULL"}
    assert len(refused) == 100
    await worker.end(held)
    assert (await ended(call)).status == run_pb2.RUN_STATUS_SUCCEEDED


async def test_who_does_not_read_answers_is_not_read_either() -> None:
    answers = Answers()
    for n in range(MOST):
        await answers.put(signalled("run", f"{n}"))
    assert answers.waiter().done() or await answers.waiter()
    one_more = asyncio.create_task(answers.put(signalled("run", "late")))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not one_more.done()
    assert len(answers.take()) == MOST
    await one_more
    assert [each.signalled.signal_id for each in answers.take()] == ["late"]
    assert not answers.waiter().done()
    answers.close()
