"""A run that moves to the background lets those go who talk with it; who watches it stays."""

import asyncio
from typing import Any

import grpc

from holdfast.v1 import run_pb2, transcript_pb2
from tests.invoker.runner import Held, Runner
from tests.invoker.stand import Invoker, invoker, pb
from tests.invoker.test_converse import attach, ended, start
from tests.invoker.watcher import Watcher
from tests.kit.until import until

BACKGROUND: dict[str, Any] = {"handoff": {"budget": {"deadline_ms": 3_600_000}}}


def show_handoff(held: Held) -> None:
    budget = run_pb2.Budget(deadline_ms=3_600_000)
    held._add(handed_off=transcript_pb2.HandedOff(run_id=held.run_id, budget=budget))


async def hand_off(worker: Runner, held: Held) -> None:
    """Move a run to the background."""
    show_handoff(held)
    answer = await worker.commit(held, handoff=True)
    assert answer.WhichOneof("result") == "committed", answer


async def read(call: Any) -> Any:
    async with asyncio.timeout(10):
        return await call.read()


async def up_to_the_handoff(call: Any) -> list[Any]:
    """Read until the run is handed off; return the events."""
    events: list[Any] = []
    while not events or not events[-1].HasField("handed_off"):
        update = await read(call)
        assert update is not grpc.aio.EOF
        assert update.HasField("event"), update
        events.append(update.event)
    return events


async def test_a_conversation_is_let_go_and_takes_the_next_run(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    await call.write(start(idempotency_key="first", **BACKGROUND))
    first = await worker.take((await read(call)).started.run.run_id)
    first.show("this takes a while")
    await hand_off(worker, first)
    events = await up_to_the_handoff(call)
    assert [event.WhichOneof("event") for event in events] == ["accepted", "said", "handed_off"]
    assert events[-1].handed_off.run_id == first.run_id
    await call.write(start(idempotency_key="second"))
    second = (await read(call)).started.run
    assert second.run_id != first.run_id
    await worker.end(await worker.take(second.run_id))
    await ended(call)
    await call.done_writing()
    assert await read(call) is grpc.aio.EOF
    run = await door.run(first.run_id)
    assert (run.handed_off, run.shape) == (True, run_pb2.SHAPE_WORKER)
    assert (run.status, run.budget.deadline_ms) == (run_pb2.RUN_STATUS_RUNNING, 3_600_000)


async def test_a_client_that_has_closed_its_side_is_let_go_with_ok(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    await call.write(start(on_disconnect=run_pb2.ON_DISCONNECT_CANCEL, **BACKGROUND))
    await call.done_writing()
    held = await worker.take((await read(call)).started.run.run_id)
    await hand_off(worker, held)
    await up_to_the_handoff(call)
    assert await read(call) is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    await worker.end(held)
    assert await door.status(held.run_id) == run_pb2.RUN_STATUS_SUCCEEDED
    assert worker.cancels == []


async def test_a_client_that_leaves_after_it_cancels_nothing(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    await call.write(start(on_disconnect=run_pb2.ON_DISCONNECT_CANCEL, **BACKGROUND))
    held = await worker.take((await read(call)).started.run.run_id)
    await hand_off(worker, held)
    await up_to_the_handoff(call)
    call.cancel()
    await until(lambda: not door.parts.followers._following)
    await worker.end(held)
    assert await door.status(held.run_id) == run_pb2.RUN_STATUS_SUCCEEDED
    assert worker.cancels == []


async def test_who_attaches_again_by_id_or_key_follows_to_the_end(door: Invoker, worker: Runner) -> None:
    held = await worker.take((await door.invoke(idempotency_key="k", **BACKGROUND)).run.run_id)
    await hand_off(worker, held)
    for opening in (
        attach(run_id=held.run_id),
        attach(idempotency_key="k"),
        start(idempotency_key="k", **BACKGROUND),
    ):
        call = door.invoker.Converse()
        await call.write(opening)
        started = (await read(call)).started
        assert (started.run.run_id, started.run.handed_off) == (held.run_id, True)
        assert len(await up_to_the_handoff(call)) == 2
        text = f"to {opening.WhichOneof('message')} {len(held.events)}"
        held.show(text)
        while (update := await read(call)).event.said.text != text:
            assert update is not grpc.aio.EOF
        call.cancel()
    call = door.invoker.Converse()
    await call.write(attach(run_id=held.run_id, after_sequence=2))
    assert (await read(call)).HasField("started")
    await worker.end(held)
    assert (await ended(call)).status == run_pb2.RUN_STATUS_SUCCEEDED


async def test_a_watcher_goes_on_through_it_and_sees_it_only_when_it_is_durable(
    door: Invoker, worker: Runner, database_url: str
) -> None:
    async with invoker(database_url) as other:
        held = await worker.take((await door.invoke(**BACKGROUND)).run.run_id)
        watcher = Watcher(other, held.run_id)
        held.show("before")
        await watcher.heard("before")
        show_handoff(held)
        held.show("after")
        assert (await worker.commit(held, handoff=True)).WhichOneof("result") == "committed"
        await watcher.heard("after")
        await worker.end(held)
        kinds = [event.WhichOneof("event") for event in await watcher.finished()]
        assert kinds == ["accepted", "said", "handed_off", "said", "ended"]
        assert watcher.rewound == 0


async def test_a_handoff_that_dies_with_its_runner_lets_nobody_go(door: Invoker, worker: Runner) -> None:
    call = door.invoker.Converse()
    await call.write(start(**BACKGROUND))
    held = await worker.take((await read(call)).started.run.run_id)
    held.show("before")
    assert (await read(call)).event.HasField("accepted")
    assert (await read(call)).event.said.text == "before"
    show_handoff(held)  # shown, and never committed
    await worker.hand_back(held)
    await worker.credit(1)
    assert (await read(call)).rewound.to_sequence == 1
    again = await worker.take(held.run_id, epoch=held.epoch + 1)
    again.show("once more")
    await hand_off(worker, again)
    events = await up_to_the_handoff(call)
    assert [event.WhichOneof("event") for event in events] == ["requeued", "said", "handed_off"]
    call.cancel()


async def test_invoke_with_wait_answers_at_the_handoff_and_await_run_at_the_end(
    door: Invoker, worker: Runner, database_url: str
) -> None:
    async with invoker(database_url) as other:
        request = {"idempotency_key": "k", "wait": {"seconds": 30}, **BACKGROUND}
        waiting = asyncio.ensure_future(other.invoke(**request))
        held = await worker.take()
        awaiting = asyncio.ensure_future(
            _awaited(door, pb.AwaitRunRequest(run_id=held.run_id, wait={"seconds": 30}))
        )
        await until(lambda: bool(door.parts.waiters._waiting) and bool(other.parts.waiters._waiting))
        await hand_off(worker, held)
        async with asyncio.timeout(10):
            run = (await waiting).run
            assert (run.status, run.handed_off) == (run_pb2.RUN_STATUS_RUNNING, True)
            assert not run.HasField("outcome")
            again = await other.invoke(**request)
        assert (again.reattached, again.run.handed_off) == (True, True)
        assert not awaiting.done()
        await worker.end(held)
        async with asyncio.timeout(10):
            assert (await awaiting).run.status == run_pb2.RUN_STATUS_SUCCEEDED
        assert other.parts.waiters._interactive == set()


async def test_a_lost_hint_delays_the_answer_by_a_second(door: Invoker, worker: Runner) -> None:
    door.parts.hints.left = lambda run_ids: None  # type: ignore[method-assign]  # noqa: ARG005
    waiting = asyncio.ensure_future(door.invoke(wait={"seconds": 30}, **BACKGROUND))
    held = await worker.take()
    await until(lambda: bool(door.parts.waiters._waiting))
    await hand_off(worker, held)
    async with asyncio.timeout(10):
        assert (await waiting).run.handed_off
    await worker.end(held)


async def _awaited(door: Invoker, request: Any) -> Any:
    return await door.invoker.AwaitRun(request)
