"""A gate is decided once and its run goes on with that, whoever dies meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.client import Approval, ApprovalStatus, EffectStatus, Person, RunHandle, RunStatus, errors
from holdfast.v1.approval_service_pb2 import WatchApprovalsRequest
from holdfast.v1.approval_service_pb2_grpc import ApprovalServiceStub
from tests.crash.invariant import kept_of
from tests.crash.world import World

ANN = Person("ann", groups=("underwriters",))


async def _gate(world: World, handle: RunHandle, step: str) -> Approval:
    found: list[Approval] = []

    async def opened() -> bool:
        gates = world.client.approvals().list(run_id=handle.run_id)
        found[:] = [a async for a in gates if a.step == step and a.status is ApprovalStatus.PENDING]
        rests = (await world.client.get_run(handle.run_id)).status is RunStatus.PARKED
        return bool(found) and rests

    await world.until(opened, f"the gate {step} is open, and the run rests")
    return found[0]


async def test_a_run_waits_for_its_gates_one_by_one_while_everything_dies(tmp_path: Path) -> None:
    async with World.opened(tmp_path, runners=1) as world:
        handle = await world.client.invoke("crash.review", {})
        first = await _gate(world, handle, "review")
        assert (first.status, first.payload) == (ApprovalStatus.PENDING, {"amount": 7, "round": 0})
        with pytest.raises(errors.NotAnApprover):
            await world.client.approvals(Person("eve")).approve(first.approval_id)
        (runner,) = world.suite.runners
        await runner.kill()
        await world.client.approvals(ANN).approve(first.approval_id, "fine", edited={"amount": 5})
        await runner.start()
        second = await _gate(world, handle, "review#2")
        assert second.status is ApprovalStatus.PENDING
        approval = world.suite.processes["approval"]
        await approval.kill()
        await approval.start()
        bob = Person("bob", groups=("underwriters",))
        answers = await asyncio.gather(
            world.client.approvals(ANN).approve(second.approval_id),
            world.client.approvals(bob).deny(second.approval_id),
            return_exceptions=True,
        )
        (won,) = [answer for answer in answers if isinstance(answer, Approval)]
        assert sum(isinstance(answer, errors.ApprovalDecided) for answer in answers) == 1
        said = await handle.result(patience=60)
        assert said[0] == ["APPROVED", ["ann"], {"amount": 5}]
        assert said[1][:2] == [won.status.name, list(won.by)]
        await kept_of(world, [handle.run_id])


async def test_a_deadline_that_falls_while_everything_is_down_fires_once_with_its_escalation(
    tmp_path: Path,
) -> None:
    async with World.opened(tmp_path, runners=1) as world:
        await world.destination("sink")
        handle = await world.client.invoke("crash.review", {"timeout": 4, "escalate": 2})
        gate = await _gate(world, handle, "review")
        down = [*world.suite.runners, world.suite.processes["approval"], world.suite.processes["invoker"]]
        for process in down:
            await process.kill()
        await asyncio.sleep(5)  # what is tested is that the clock went on
        for process in reversed(down):
            await process.start()
        assert await handle.result(patience=60) == [["TIMED_OUT", [], None]]
        late = await world.client.approvals().get(gate.approval_id, audit=True)
        assert late.status is ApprovalStatus.TIMED_OUT
        assert len(late.audit) == 3
        effects = [e async for e in world.client.outbox.list_effects(run_id=handle.run_id)]
        assert [effect.idempotency_key for effect in effects] == [f"{gate.approval_id}/escalation#1"]
        await world.until(lambda: _delivered(world, effects[0].effect_id), "the escalation arrives")


async def _delivered(world: World, effect_id: str) -> bool:
    return (await world.client.outbox.get_effect(effect_id)).status is EffectStatus.DELIVERED


async def test_a_run_that_was_cancelled_at_a_gate_and_started_again_asks_people_again(
    tmp_path: Path,
) -> None:
    async with World.opened(tmp_path, runners=1) as world:
        handle = await world.client.invoke("crash.review", {})
        gate = await _gate(world, handle, "review")
        await world.client.cancel(handle.run_id)
        with pytest.raises(errors.ApprovalDecided):
            await world.client.approvals(ANN).approve(gate.approval_id)
        await world.client.retry(handle.run_id)
        again = await _gate(world, handle, "review")
        assert again.approval_id != gate.approval_id
        await world.client.approvals(ANN).deny(again.approval_id)
        ((status, by, _),) = await handle.result(patience=30)
        assert (status, by) == ("DENIED", ["ann"])
        old = await world.client.approvals().get(gate.approval_id)
        assert old.status is ApprovalStatus.CANCELLED


async def test_an_inbox_gets_what_waits_then_each_change_and_goes_on_after_its_cursor(tmp_path: Path) -> None:
    async with World.opened(tmp_path, runners=1) as world:
        handle = await world.client.invoke("crash.review", {})
        gate = await _gate(world, handle, "review")
        address = world.suite.addresses["approval"]
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
            stub: Any = ApprovalServiceStub(channel)
            inbox = stub.WatchApprovals(WatchApprovalsRequest())
            waiting = await inbox.read()
            assert waiting.approval.approval_id == gate.approval_id
            assert (await inbox.read()).caught_up
            await world.client.approvals(ANN).approve(gate.approval_id)
            decided = await inbox.read()
            assert decided.approval.decision.deciders == ["ann"]
            next_gate = await inbox.read()
            assert next_gate.approval.step == "review#2"
            inbox.cancel()
            again = stub.WatchApprovals(WatchApprovalsRequest(cursor=decided.cursor))
            assert (await again.read()).approval.approval_id == next_gate.approval.approval_id
            again.cancel()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.WatchApprovals(WatchApprovalsRequest(cursor="x")).read()
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await world.client.cancel(handle.run_id)
