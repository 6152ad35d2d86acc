"""Invokers as processes: two at once, PostgreSQL gone and back, SIGTERM with calls open."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.rpc.client import channel
from tests.invoker.runner import runner
from tests.invoker.stand import Stubs, checkpoint, pb, reason_of
from tests.kit.until import until


class Process(Stubs):
    """An Invoker process."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, opened: grpc.aio.Channel) -> None:
        super().__init__(opened)
        self.process = process
        self.address = address


@asynccontextmanager
async def invoker_process(url: str, **settings: str) -> AsyncIterator[Process]:
    """Run `python -m holdfast.invoker`."""
    told = {"DATABASE_URL": url, "LISTEN": "127.0.0.1:0", "DIE_WITH_PARENT": "1", **settings}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdfast.invoker",
        env=os.environ | {f"HOLDFAST_{name}": value for name, value in told.items()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            ready = json.loads(await process.stdout.readline())
        async with channel(ready["address"]) as opened:
            yield Process(process, ready["address"], opened)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def outcome_of(call: Any) -> Any:
    """Return a call's response, or the error it ended with."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error


async def test_a_hundred_identical_calls_at_two_invokers_make_one_run(
    database_url: str, commits: str
) -> None:
    async with (
        invoker_process(database_url) as one,
        invoker_process(database_url) as two,
        runner(one.address, commits, slots=3),
    ):
        request = pb.InvokeRequest(intent="count", idempotency_key="same", payload={"n": 1})
        answers = await asyncio.gather(*((one, two)[n % 2].invoker.Invoke(request) for n in range(100)))
        assert len({answer.run.run_id for answer in answers}) == 1
        assert sum(not answer.reattached for answer in answers) == 1
        assert len((await one.invoker.ListRuns(pb.ListRunsRequest())).runs) == 1


async def test_postgres_killed_and_back_loses_nothing_that_was_acknowledged(
    mortal_postgres: EmbeddedPostgres,
) -> None:
    url = mortal_postgres.url("holdfast")
    async with (
        checkpoint(url) as commits,
        invoker_process(url) as door,
        runner(door.address, commits) as worker,
    ):
        acknowledged: set[str] = set()
        codes: set[tuple[grpc.StatusCode, str]] = set()
        stop = asyncio.Event()

        async def load(n: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                answer = await outcome_of(door.invoke(idempotency_key=f"{n}-{count}"))
                if isinstance(answer, grpc.aio.AioRpcError):
                    codes.add((answer.code(), reason_of(answer)))
                    await asyncio.sleep(0.05)
                else:
                    acknowledged.add(answer.run.run_id)

        loads = [asyncio.create_task(load(n)) for n in range(8)]
        await until(lambda: len(acknowledged) > 20)
        os.kill(mortal_postgres.pid, signal.SIGKILL)
        await until(lambda: bool(codes))
        before = len(acknowledged)
        await until(lambda: len(acknowledged) > before + 20, deadline=20)
        stop.set()
        await asyncio.gather(*loads)
        assert codes == {(grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")}
        for run_id in acknowledged:
            assert (await door.run(run_id)).run_id == run_id
        assert door.process.returncode is None
        assert worker.code is None


async def test_sigterm_lets_open_calls_end_and_sends_the_rest_elsewhere(
    database_url: str, commits: str
) -> None:
    async with (
        invoker_process(database_url, DRAIN_GRACE="2") as door,
        runner(door.address, commits, slots=5) as worker,
    ):
        ends = asyncio.ensure_future(outcome_of(door.invoke(idempotency_key="a", wait={"seconds": 60})))
        held = await worker.take()
        lasts = (await door.invoke(idempotency_key="b")).run.run_id
        await worker.take(lasts)
        waits = asyncio.ensure_future(
            outcome_of(door.invoker.AwaitRun(pb.AwaitRunRequest(run_id=lasts, wait={"seconds": 60})))
        )
        watch = door.invoker.WatchRun(pb.WatchRunRequest(run_id=lasts))
        await watch.read()
        idle = door.invoker.Converse()
        await idle.write(pb.ConverseRequest(attach={"run_id": lasts}))
        assert (await idle.read()).HasField("started")
        started = asyncio.get_running_loop().time()
        door.process.send_signal(signal.SIGTERM)
        await until(lambda: worker.draining)
        await worker.end(held)
        assert (await ends).run.outcome.result.string_value == "done"
        error = await waits
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        for call in (watch, idle):
            error = await outcome_of(_to_the_end(call))
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        async with asyncio.timeout(5):
            assert await door.process.wait() == 0
        assert asyncio.get_running_loop().time() - started < 4
        await until(lambda: worker.code is not None)
        assert worker.code is grpc.StatusCode.UNAVAILABLE


async def _to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
