"""Who waits for a run's end is woken at once by whoever knows first, and by the poll if nobody says."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest

from holdfast.v1 import run_pb2
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, invoker, of_tenant, pb, reason_of
from tests.kit.until import until


async def waiting(door: Invoker, run_id: str) -> "asyncio.Future[Any]":
    """Begin to wait, and return once the Invoker waits too."""
    request = pb.AwaitRunRequest(run_id=run_id, wait={"seconds": 10})
    call = asyncio.ensure_future(_awaited(door, request))
    await until(lambda: bool(door.parts.waiters._waiting))
    await door.parts.waiters.loop.signal.completed(1)
    return call


async def _awaited(door: Invoker, request: Any) -> Any:
    return (await door.invoker.AwaitRun(request)).run


async def test_the_runners_hint_wakes_at_once(door: Invoker, worker: Runner) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    call = await waiting(door, held.run_id)
    started = asyncio.get_running_loop().time()
    await worker.end(held)
    assert (await call).status == run_pb2.RUN_STATUS_SUCCEEDED
    assert asyncio.get_running_loop().time() - started < 0.5


async def test_a_notice_wakes_at_another_invoker(door: Invoker, worker: Runner, database_url: str) -> None:
    async with invoker(database_url) as other:
        held = await worker.take((await door.invoke()).run.run_id)
        call = await waiting(other, held.run_id)
        started = asyncio.get_running_loop().time()
        await worker.end(held, hint=False)
        assert (await call).status == run_pb2.RUN_STATUS_SUCCEEDED
        assert asyncio.get_running_loop().time() - started < 0.5


async def test_the_poll_wakes_when_every_hint_is_lost_however_many_others_come(
    door: Invoker, worker: Runner
) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    call = await waiting(door, held.run_id)
    hint = door.parts.waiters.hint
    door.parts.hints.left = lambda run_ids: None  # type: ignore[method-assign]  # noqa: ARG005
    await worker.end(held)
    noise = (await door.invoke(idempotency_key="noise")).run.run_id
    busy = await waiting(door, noise)

    async def chatter() -> None:
        while True:
            hint([uuid.UUID(noise)])
            await asyncio.sleep(0.01)

    chatting = asyncio.create_task(chatter())
    try:
        async with asyncio.timeout(5):
            assert (await call).status == run_pb2.RUN_STATUS_SUCCEEDED
    finally:
        chatting.cancel()
    busy.cancel()


async def test_a_wait_that_is_over_answers_with_the_run_as_it_stands(door: Invoker, worker: Runner) -> None:
    response = await door.invoke(wait={"nanos": 50_000_000})
    assert response.run.status in {run_pb2.RUN_STATUS_QUEUED, run_pb2.RUN_STATUS_RUNNING}
    run_id = response.run.run_id
    await worker.take(run_id)
    stands = await _awaited(door, pb.AwaitRunRequest(run_id=run_id, wait={}))
    assert stands.status == run_pb2.RUN_STATUS_RUNNING
    await worker.end(await worker.take(run_id))
    again = await door.invoke(run_id=run_id, idempotency_key=run_id, wait={"seconds": 10})
    assert again.reattached
    assert again.run.outcome.result.string_value == "done"
    assert not door.parts.waiters._waiting


async def test_an_ended_run_can_be_started_again_unless_it_succeeded(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke(budget={"max_steps": 5})).run.run_id
    held = await worker.take(run_id)
    outcome = run_pb2.Outcome(
        status=run_pb2.RUN_STATUS_PARTIAL,
        exhausted=run_pb2.BUDGET_DIMENSION_STEPS,
        failure=run_pb2.Failure(reason="BUDGET_EXHAUSTED"),
    )
    await worker.commit(held, end=outcome, usage={"steps": 5})
    worker.forget(held)
    await worker.credit(1, [run_id])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.invoker.RetryRun(pb.RetryRunRequest(run_id=run_id))
    assert reason_of(caught.value) == "RUN_NOT_RETRYABLE"
    again = await door.invoker.RetryRun(pb.RetryRunRequest(run_id=run_id, budget={"max_steps": 50}))
    assert again.run.budget.max_steps == 50
    assert again.run.status in {run_pb2.RUN_STATUS_QUEUED, run_pb2.RUN_STATUS_RUNNING}
    with pytest.raises(grpc.aio.AioRpcError):
        await door.invoker.RetryRun(pb.RetryRunRequest(run_id=run_id))
    await worker.end(await worker.take(run_id, epoch=held.epoch + 1))
    run = await door.run(run_id)
    assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.invoker.RetryRun(pb.RetryRunRequest(run_id=run_id))
    assert reason_of(caught.value) == "RUN_NOT_RETRYABLE"


async def test_a_key_stands_for_one_request_of_one_tenant(door: Invoker, worker: Runner) -> None:
    del worker
    first = await door.invoke(idempotency_key="k", payload={"a": 1})
    again = await door.invoke(idempotency_key="k", payload={"a": 1}, correlation_id="other")
    assert (again.reattached, again.run.run_id) == (True, first.run.run_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.invoke(idempotency_key="k", payload={"a": 2})
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(caught.value) == "IDEMPOTENCY_KEY_REUSED"
    request = pb.InvokeRequest(intent="count", idempotency_key="k", payload={"a": 2})
    other = await door.invoker.Invoke(request, metadata=of_tenant("acme"))
    assert other.run.run_id != first.run.run_id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.invoke(idempotency_key="new", run_id=first.run.run_id)
    assert reason_of(caught.value) == "RUN_ID_TAKEN"
