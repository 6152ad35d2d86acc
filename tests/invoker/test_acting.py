"""People hold runs, and do one thing with many: what is shown is what would be done, and no more."""

import asyncio
import uuid
from typing import Any

import asyncpg
import grpc
import pytest

from holdfast.ledger.domain.status import RunStatus
from holdfast.v1 import invoker_service_pb2 as act
from holdfast.v1 import run_pb2
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, fields_of, invoker, of_tenant, pb, reason_of
from tests.kit.until import until
from tests.support.cord import Cord
from tests.support.ledger import open_ledger, status_of


async def acted(door: Invoker, action: int, *, tenant: str = "default", **asked: Any) -> list[Any]:
    """Ask, and return all answers."""
    request = pb.ActOnRunsRequest(action=action, **asked)
    return [answer async for answer in door.invoker.ActOnRuns(request, metadata=of_tenant(tenant))]


async def queued(door: Invoker, n: int, **more: Any) -> list[str]:
    return [(await door.invoke(**more)).run.run_id for _ in range(n)]


async def statuses(door: Invoker, ids: list[str]) -> list[int]:
    return [await door.status(run_id) for run_id in ids]


@pytest.fixture
async def served(door: Invoker, worker: Runner) -> Invoker:
    """An Invoker that knows an intent of which nobody takes runs."""
    await worker.die()
    await until(lambda: not door.parts.board.sessions())
    return door


async def test_a_running_run_is_told_to_stop_before_its_next_step(door: Invoker, worker: Runner) -> None:
    held = await worker.take((await door.invoke()).run.run_id)
    asked = pb.PauseRunRequest(run_id=held.run_id, reason="wait")
    paused = (await door.invoker.PauseRun(asked)).run
    assert (paused.paused, paused.pause_reason, paused.status) == (True, "wait", run_pb2.RUN_STATUS_RUNNING)
    await until(lambda: held.run_id in worker.paused)
    heard = len(worker.paused)
    await until(lambda: len(worker.paused) > heard)  # with the heartbeats, until it does
    await worker.hand_back(held)
    run = await door.run(held.run_id)
    assert (run.paused, run.waiting_for) == (True, "")
    await asyncio.sleep(0.3)
    assert held.run_id not in worker.held
    assert not (await door.invoker.ResumeRun(pb.ResumeRunRequest(run_id=held.run_id))).run.paused
    again = await worker.take(held.run_id, epoch=held.epoch + 1)
    assert again.assignment.attempt == 1
    await worker.end(again)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await door.invoker.PauseRun(pb.PauseRunRequest(run_id=held.run_id))
    assert (refused.value.code(), reason_of(refused.value)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "RUN_ENDED",
    )


async def test_nothing_is_done_unless_it_is_said(served: Invoker) -> None:
    ids = await queued(served, 3)
    answers = await acted(served, act.RUN_ACTION_CANCEL, which={"intent": "count"})
    assert [(each.matched, each.done, each.finished) for each in answers] == [(3, 0, True)]
    assert list(answers[0].run_ids) == ids[::-1]
    assert await statuses(served, ids) == [run_pb2.RUN_STATUS_QUEUED] * 3


async def test_many_are_cancelled_of_this_tenant_alone_and_again_changes_nothing(served: Invoker) -> None:
    ids = await queued(served, 230)
    kept = (await served.invoke(labels={"keep": "yes"})).run.run_id
    request = pb.InvokeRequest(intent="count")
    foreign = (await served.invoker.Invoke(request, metadata=of_tenant("umbrella"))).run.run_id
    answers = await acted(
        served, act.RUN_ACTION_CANCEL, which={"statuses": [1]}, limit=230, apply=True, reason="flood"
    )
    assert [each.done for each in answers] == [100, 200, 230]
    last = answers[-1]
    assert (last.matched, last.skipped, last.finished) == (230, 0, True)
    assert await served.status(ids[0]) == run_pb2.RUN_STATUS_QUEUED, "the oldest is beyond the limit"
    await acted(served, act.RUN_ACTION_CANCEL, which={"statuses": [1]}, apply=True)
    assert set(await statuses(served, [*ids, kept])) == {run_pb2.RUN_STATUS_CANCELLED}
    (nothing,) = await acted(served, act.RUN_ACTION_CANCEL, which={"intent": "count"}, apply=True)
    assert (nothing.matched, nothing.done) == (0, 0)
    read = pb.GetRunRequest(run_id=foreign)
    run = (await served.invoker.GetRun(read, metadata=of_tenant("umbrella"))).run
    assert run.status == run_pb2.RUN_STATUS_QUEUED


async def test_many_are_held_and_let_go(served: Invoker) -> None:
    ids = await queued(served, 3, labels={"a": "b"})
    await acted(served, act.RUN_ACTION_PAUSE, which={"labels": {"a": "b"}}, apply=True, reason="deploy")
    assert {(await served.run(run_id)).pause_reason for run_id in ids} == {"deploy"}
    other = await queued(served, 1)
    (answer,) = await acted(served, act.RUN_ACTION_RESUME, which={"intent": "count"}, apply=True)
    assert (answer.matched, answer.done) == (3, 3), "only those that are held"
    assert other[0] not in answer.run_ids


async def test_what_stands_otherwise_is_passed_over_and_named(served: Invoker) -> None:
    ids = await queued(served, 2)
    await acted(served, act.RUN_ACTION_CANCEL, which={"intent": "count"}, apply=True)
    connection = await asyncpg.connect(served.url)
    try:
        await connection.execute("UPDATE holdfast.tenant SET max_queued = 1")
    finally:
        await connection.close()
    (answer,) = await acted(served, act.RUN_ACTION_RETRY, which={"intent": "count"}, apply=True)
    assert (answer.matched, answer.done, answer.skipped) == (2, 1, 1)
    assert answer.skipped_runs[0].reason == "QUEUE_FULL"
    assert answer.skipped_runs[0].run_id in ids


async def test_a_rate_is_kept(served: Invoker) -> None:
    await queued(served, 4)
    began = asyncio.get_running_loop().time()
    await acted(served, act.RUN_ACTION_CANCEL, which={"intent": "count"}, apply=True, max_per_second=10)
    assert asyncio.get_running_loop().time() - began >= 0.3


async def test_statuses_to_which_it_has_nothing_to_say_match_nothing(served: Invoker) -> None:
    ids = await queued(served, 1)
    (answer,) = await acted(served, act.RUN_ACTION_CANCEL, which={"statuses": [5, 8]}, apply=True)
    assert (answer.matched, answer.finished) == (0, True)
    assert await statuses(served, ids) == [run_pb2.RUN_STATUS_QUEUED]


async def test_a_ledger_that_goes_away_on_the_way_is_named(served: Invoker) -> None:
    ids = [uuid.UUID(run_id) for run_id in await queued(served, 4)]
    async with open_ledger(served.url) as db, Cord(served.url) as cord, invoker(cord.url) as door:

        async def cancelled() -> int:
            return [await status_of(db, run_id) for run_id in ids].count(RunStatus.CANCELLED)

        which = {"intent": "count"}
        acting = asyncio.create_task(
            acted(door, act.RUN_ACTION_CANCEL, which=which, apply=True, max_per_second=2)
        )

        async def begun() -> bool:
            return await cancelled() > 0

        await until(begun)
        await cord.cut()  # on the way through a page: all four are on it
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await acting
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(failed.value) == "LEDGER_UNAVAILABLE"
        assert 0 < await cancelled() < len(ids), "what is done stays done"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"which": {}}, "which"),
        ({"which": {"intent": "x", "page_size": 3}}, "which"),
        ({"which": {"intent": "x"}, "action": 0}, "action"),
        ({"which": {"intent": "x"}, "action": 9}, "action"),
        ({"which": {"intent": "x"}, "limit": -1}, "limit"),
        ({"which": {"intent": "x"}, "limit": 100_001}, "limit"),
        ({"which": {"intent": "x"}, "max_per_second": -1.0}, "max_per_second"),
        ({"which": {"intent": "x"}, "max_per_second": float("nan")}, "max_per_second"),
        ({"which": {"intent": "x"}, "reason": "x" * 1001}, "reason"),
    ],
)
async def test_what_is_malformed_is_named(door: Invoker, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await acted(door, asked.pop("action", act.RUN_ACTION_CANCEL), apply=True, **asked)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(refused.value) == [field]


async def test_a_run_that_nobody_connected_can_take_says_what_it_waits_for(served: Invoker) -> None:
    (run_id,) = await queued(served, 1)
    await until_unserved(served, run_id)
    other = (await served.invoke(agent_version="7")).run.run_id
    assert (await served.run(other)).waiting_for == "a runner that serves count at version 7"


async def until_unserved(door: Invoker, run_id: str) -> None:
    for _ in range(100):
        if (await door.run(run_id)).waiting_for == "a runner that serves count":
            return
        await asyncio.sleep(0.05)
    raise AssertionError(str(uuid.UUID(run_id)) + " waits for nobody")
