"""Signals reach the run they are for, whichever way they come and however often."""

import asyncio

import grpc
import pytest

from holdfast.agent import App, Interrupted, Run, step
from holdfast.v1.runner_service_pb2 import AttachRequest, AttachSignal
from holdfast.v1.runner_service_pb2_grpc import RunnerServiceStub
from holdfast.v1.work_service_pb2 import INPUT_POLICY_INTERRUPT
from tests.runner.conftest import Runner
from tests.runner.platform import Platform


def _app() -> tuple[App, asyncio.Event]:
    app = App("desk")
    begun = asyncio.Event()

    @app.agent("listen", on_input="interrupt")
    async def listen(run: Run) -> str:
        begun.set()
        return " ".join([await run.receive() for _ in range(3)])

    @step(interruptible=True)
    async def think() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.agent("think")
    async def thinks(run: Run) -> str:
        try:
            await run.step(think)
        except Interrupted as interrupted:
            return str(interrupted.payload)
        return "never"

    @app.agent("look_up", on_input="restart")
    async def look_up(run: Run) -> str:
        if not run.inputs:
            await run.step(think)
        return " ".join(map(str, run.inputs))

    return app, begun


async def test_what_waits_comes_with_the_run_and_what_follows_is_pushed(
    platform: Platform, runner: Runner
) -> None:
    app, begun = _app()
    run = platform.add("listen")
    platform.send(run, "one")
    async with runner(app):
        assert platform.hello is not None
        served = {each.intent: each.on_input for each in platform.hello.intents}
        assert served["listen"] == INPUT_POLICY_INTERRUPT
        platform.lease(run)
        await begun.wait()
        second, third = platform.send(run, "two"), platform.send(run, "three")
        platform.push(run, third)  # early: it waits for the second
        platform.push(run, second, epoch=run.epoch + 1)  # of no lease that is held here
        platform.push(run, second, third)
        platform.push(run, second, third)
        await asyncio.wait_for(run.moved.wait(), 10)
    assert run.outcome.result.string_value == "one two three"
    assert run.mail == []


async def test_another_invoker_interrupts_a_step_over_the_live_link(
    platform: Platform, runner: Runner
) -> None:
    app, begun = _app()
    run = platform.add("think")
    async with runner(app) as running, grpc.aio.insecure_channel(running.server.address) as channel:
        platform.lease(run)
        await begun.wait()
        sent = platform.send(run, "stop", "interrupt", urgent=True)
        call = RunnerServiceStub(channel).Attach()
        pushed = AttachSignal(signal_id=sent.signal_id, key=sent.key, urgent=True, sequence=sent.sequence)
        pushed.payload.string_value = "stop"
        for run_id in ("of nobody", run.run_id):
            await call.write(AttachRequest(run_id=run_id, signal=pushed))
        await asyncio.wait_for(run.moved.wait(), 10)
        call.cancel()
    assert run.outcome.result.string_value == "stop"
    assert run.mail == []


@pytest.mark.parametrize("fate", ["FENCED", "retry"])
async def test_a_signal_of_a_commit_that_did_not_land_is_there_for_the_next_lease(
    platform: Platform, runner: Runner, fate: str
) -> None:
    app, _ = _app()
    run = platform.add("think")
    platform.send(run, "stop", urgent=True)
    platform.fate = lambda commit: fate if commit.consumed_signal_ids else "commit"
    async with runner(app):
        platform.lease(run)
        await platform.until(lambda: any(commit.consumed_signal_ids for commit in platform.received))
        platform.revoke(run)
        assert len(run.mail) == 1
        platform.fate = lambda _: "commit"
        platform.lease(run)
        await asyncio.wait_for(run.moved.wait(), 10)
    assert run.outcome.result.string_value == "stop"
    assert run.mail == []


async def test_input_that_begins_an_agent_anew_brings_the_run_back_with_it(
    platform: Platform, runner: Runner
) -> None:
    app, begun = _app()
    run = platform.add("look_up")
    async with runner(app):
        platform.lease(run)
        await begun.wait()
        platform.push(run, platform.send(run, "again"))
        await asyncio.wait_for(run.moved.wait(), 10)
        assert run.commits[-1].HasField("requeue")
        assert run.commits[-1].requeue.blameless
        platform.send(run, "and again")
        platform.lease(run)
        await asyncio.wait_for(run.moved.wait(), 10)
    assert run.outcome.result.string_value == "again and again"
    assert [commit.restarts for commit in run.commits].count(True) == 2
    assert run.mail == []
