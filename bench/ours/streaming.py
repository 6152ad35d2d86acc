"""What a person who waits for words sees: the first event, a token's way, many streams, a cancel's end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from bench.protocol import Question, answer
from examples.standins.chat_protocol import Answer
from examples.standins.model_server import ModelServer
from holdfast.agent.engine.transcript import DELAY
from holdfast.dev import Suite
from holdfast.v1.invoker_service_pb2 import (
    CancelRunRequest,
    ConverseRequest,
    ConverseResponse,
    ConverseStart,
    InvokeRequest,
)
from holdfast.v1.invoker_service_pb2_grpc import InvokerServiceStub
from holdfast.v1.run_pb2 import RUN_STATUS_CANCELLED, RUN_STATUS_SUCCEEDED
from holdfast.v1.transcript_pb2 import RunEvent

AGENTS = "bench.ours.agents:app"
WARM_UP_RUNS = 20
PAUSE = 0.05  # between tokens whose way is measured: each is an event of its own
STREAMS = 500
TOKENS = 500
RATE = 50  # tokens a second
SETTLING_TOKENS = 100  # of each stream, while all of them start
PATIENCE = 300.0


@asynccontextmanager
async def standing(**environment: str) -> AsyncIterator[InvokerServiceStub]:
    """Bring up the suite and a stub of its Invoker."""
    async with (
        Suite(agents=[AGENTS], ephemeral=True, supervise=False, environment=environment) as suite,
        grpc.aio.insecure_channel(suite.invoker_addresses[0]) as channel,
    ):
        yield InvokerServiceStub(channel)


async def converse(
    stub: InvokerServiceStub, intent: str, **payload: str | float
) -> AsyncIterator[tuple[float, RunEvent]]:
    """Start a run and yield its events, each with the time it came (`perf_counter`)."""
    invocation = InvokeRequest(intent=intent)
    invocation.payload.update(payload)
    call = stub.Converse(iter([ConverseRequest(start=ConverseStart(invocation=invocation))]))
    try:
        while isinstance(response := await call.read(), ConverseResponse):
            if response.HasField("event"):
                yield time.perf_counter(), response.event
                if response.event.HasField("ended"):
                    _check(response.event)
    finally:
        call.cancel()


def _check(event: RunEvent) -> None:
    outcome = event.ended.outcome
    if outcome.status not in (RUN_STATUS_SUCCEEDED, RUN_STATUS_CANCELLED):
        raise RuntimeError(f"a run ended {outcome.status}: {outcome.failure.message}")


async def first_event(question: Question) -> None:
    """Answer with the milliseconds from the start of a conversation to its first event, one after another."""
    async with standing() as stub:
        taken = []
        for _ in range(WARM_UP_RUNS + question.runs):
            began, first = time.perf_counter(), 0.0
            async for came, _event in converse(stub, "w2", number=1):
                first = first or came
            taken.append(1000 * (first - began))
        answer(latencies_ms=[round(each, 3) for each in taken[WARM_UP_RUNS:]])


async def token_relay(question: Question) -> None:
    """Answer with the milliseconds of tokens from agent to client, less the time they are gathered."""
    async with standing() as stub:
        taken = []
        async for came, event in converse(stub, "w4_tokens", tokens=question.runs, pause=PAUSE):
            if event.HasField("token"):
                told = float(event.token.text.split()[0])
                taken.append(round(1000 * (came - told - DELAY), 3))
        answer(latencies_ms=taken[WARM_UP_RUNS:])


async def streams(question: Question) -> None:
    """Answer with the milliseconds between a client's tokens, where many runs speak at once."""
    del question
    gaps: list[float] = []

    async def one(stub: InvokerServiceStub) -> None:
        seen, last = 0, 0.0
        async for came, event in converse(stub, "w4_tokens", tokens=TOKENS, pause=1 / RATE):
            if event.HasField("token"):
                if seen >= SETTLING_TOKENS:
                    gaps.append(round(1000 * (came - last), 3))
                seen, last = seen + len(event.token.text.split()), came

    async with standing(HOLDFAST_SLOTS=str(STREAMS)) as stub, asyncio.timeout(PATIENCE):
        began = time.perf_counter()
        await asyncio.gather(*(one(stub) for _ in range(STREAMS)))
        seconds = time.perf_counter() - began
        answer(latencies_ms=gaps, seconds=round(seconds, 1), alone_seconds=TOKENS / RATE)


async def cancel(question: Question) -> None:
    """Answer with the milliseconds from a CancelRun until the model's connection is closed."""
    long = Answer(content="word " * 20_000)
    async with ModelServer(token_delay_ms=20, answer=lambda _: long) as model:
        environment = {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "stand-in", "OPENAI_MODEL": "standin"}
        async with standing(**environment) as stub:
            taken = [await _cancelled(stub, model) for _ in range(question.runs)]
        answer(latencies_ms=taken)


async def _cancelled(stub: InvokerServiceStub, model: ModelServer) -> float:
    closed: asyncio.Task[float] | None = None
    began = 0.0
    async for _, event in converse(stub, "w4_model"):
        if event.HasField("token") and closed is None:
            left = model.stats.clients_left
            closed = asyncio.create_task(_left(model, left))
            began = time.perf_counter()
            await stub.CancelRun(CancelRunRequest(run_id=event.run_id))
    assert closed is not None  # the model has spoken
    return round(1000 * (await closed - began), 3)


async def _left(model: ModelServer, before: int) -> float:
    """Return when the model's client has left."""
    async with asyncio.timeout(PATIENCE):
        while model.stats.clients_left == before:  # noqa: ASYNC110 - the stand-in counts, and tells nobody
            await asyncio.sleep(0.001)
    return time.perf_counter()
