"""Answers a question of the benchmark for Holdfast: `python -m bench.ours --workload w1 --runs 2000`."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import grpc
import uvloop

from bench.measure import WARM_UP_RUNS, Meter
from bench.ours import batch_applying, batches, console, resting, streaming, worker
from bench.ours.churn import churn
from bench.ours.claim_depth import claim_depth_ratio
from bench.ours.load import connect, load, succeeded
from bench.ours.overload import overload
from bench.protocol import Question, answer, read_question
from holdfast.dev import Suite
from holdfast.embedded import EmbeddedPostgres
from holdfast.ledger import migrate
from holdfast.v1.invoker_service_pb2 import InvokeRequest, InvokeResponse
from holdfast.v1.invoker_service_pb2_grpc import InvokerServiceStub
from holdfast.v1.run_pb2 import RUN_STATUS_SUCCEEDED

AGENTS = "bench.ours.agents:app"
WARM_UP_CALLS = 200
WAIT_SECONDS = 60


def request(intent: str, **payload: str | float) -> InvokeRequest:
    """Return an envelope that is answered when the run has ended."""
    message = InvokeRequest(intent=intent)
    message.payload.update(payload)
    message.wait.seconds = WAIT_SECONDS
    return message


def check(response: InvokeResponse) -> None:
    """Raise if the run has not succeeded."""
    if response.run.status != RUN_STATUS_SUCCEEDED:
        raise RuntimeError(f"a run ended {response.run.status}: {response.run.outcome.failure.message}")


def processes(suite: Suite) -> dict[str, int]:
    """Return the pids of everything that works for a run."""
    pids = {name: process.pid for name, process in suite.processes.items()}
    if suite.postgres is not None:
        pids["postgres"] = suite.postgres.pid
    return pids


@asynccontextmanager
async def standing(runners: int = 1) -> AsyncIterator[tuple[Suite, InvokerServiceStub]]:
    """Bring up the suite and a stub of its Invoker."""
    async with (
        Suite(agents=[AGENTS], runners=runners, ephemeral=True, supervise=False) as suite,
        grpc.aio.insecure_channel(suite.invoker_addresses[0]) as channel,
    ):
        yield suite, InvokerServiceStub(channel)


async def throughput(question: Question) -> None:
    """Answer with runs a second and CPU a run."""
    async with worker.standing(runners=int(question.variant or "1")) as (suite, _, connection):
        with closing(connect(suite.invoker_addresses[0], question.workload)) as calls:
            await load(calls, WARM_UP_RUNS, question.concurrency)
            meter = Meter(processes(suite))
            await load(calls, question.runs, question.concurrency)
            measured = meter.read(question.runs)
        if await succeeded(connection) != WARM_UP_RUNS + question.runs:
            raise RuntimeError("not every run has succeeded")
        answer(**measured)


async def latency(question: Question) -> None:
    """Answer with the milliseconds of single runs."""
    intent = f"{question.workload}_repeatable" if question.repeatable else question.workload
    async with standing() as (suite, _):
        taken = await asyncio.to_thread(one_after_another, suite.invoker_addresses[0], intent, question.runs)
        answer(latencies_ms=taken)


def one_after_another(address: str, intent: str, runs: int) -> list[float]:
    """Make runs by the stub that blocks, as most callers have it, and return their milliseconds."""
    taken = []
    with grpc.insecure_channel(address) as channel:
        stub: Any = cast("Any", InvokerServiceStub)(channel)  # our types know it with asyncio's channels only
        for _ in range(WARM_UP_CALLS + runs):
            began = time.perf_counter()
            check(stub.Invoke(request(intent, number=1)))
            taken.append(round(1000 * (time.perf_counter() - began), 3))
    return taken[WARM_UP_CALLS:]


async def recovery(_question: Question) -> None:
    """Answer with the seconds from a runner's SIGKILL until another is at the unfinished step."""
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "mark"
        async with standing(runners=2) as (_, stub):
            run = asyncio.ensure_future(stub.Invoke(request("recovery", mark=str(mark))))
            pid = int(await _written(mark))
            os.kill(pid, signal.SIGKILL)
            began = time.perf_counter()
            await _written(mark.with_suffix(".resumed"))
            answer(recovery_s=round(time.perf_counter() - began, 3))
            await run


async def _written(path: Path) -> str:
    """Wait for a file that another process writes."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (text := _read(path)):  # noqa: ASYNC110 - written by another process
            await asyncio.sleep(0.005)
    return text


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def claim_depth(_question: Question) -> None:
    """Answer with the cost of a claim at a million queued against a thousand."""
    async with EmbeddedPostgres(ephemeral=True) as server:
        await server.create_database("holdfast")
        url = server.url("holdfast")
        await migrate(url)
        answer(**await claim_depth_ratio(url))


async def soak(question: Question) -> None:
    """Answer with what claims cost and tables weigh after runs that have come and gone."""
    answer(**await churn(question.runs))


MEASURES: Mapping[str, Callable[[Question], Coroutine[Any, Any, None]]] = {
    "throughput": throughput,
    "latency": latency,
    "recovery": recovery,
    "claim-depth": claim_depth,
    "churn": soak,
    "first-event": streaming.first_event,
    "token-relay": streaming.token_relay,
    "streams": streaming.streams,
    "cancel": streaming.cancel,
    "parked": resting.parked,
    "wake": resting.wake,
    "resume": resting.resume,
    "decision": resting.decision,
    "batch-apply": batch_applying.batch_apply,
    "batch-runs": batches.runs,
    "batch-light": batches.light,
    "console-runs": console.runs_page,
    "idle": worker.idle,
    "light": worker.light,
    "effects": worker.effects,
    "event-to-start": worker.event_to_start,
    "events": worker.events,
    "overload": overload,
}


def main() -> None:
    """Answer the question on the command line."""
    question = read_question()
    uvloop.run(MEASURES[question.measure](question))


if __name__ == "__main__":
    main()
