"""What is left of the peak when three times as much is asked for: runs done, and what the rest is told."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from bench.ours.worker import PATIENCE, standing
from bench.protocol import Question, answer
from holdfast.client import Client
from holdfast.client.channel import open_channel
from holdfast.client.errors import ResourceExhausted
from holdfast.client.wire_status import error_of
from holdfast.v1.invoker_service_pb2 import InvokeRequest
from holdfast.v1.invoker_service_pb2_grpc import InvokerServiceStub

SECONDS: Final = 10.0
RUNS: Final = 6_000
ROOM: Final = 500
TIMES: Final = 3


async def overload(_question: Question) -> None:
    """Answer with the runs a second done at three times the peak, as a share of the peak."""
    async with standing() as (suite, _, connection):
        at = suite.invoker_addresses[0]
        async with Client(at, timeout=PATIENCE) as client, open_channel(at) as channel:
            # Who asks shares the processors with who answers: as little of the client as there may be.
            stub, request = InvokerServiceStub(channel), InvokeRequest(intent="w2")
            request.payload.update({"number": 1})
            await (await client.invoke("w2", {"number": 1})).result(patience=PATIENCE)
            told: Counter[str] = Counter()

            async def asked() -> None:
                try:
                    await stub.Invoke(request)
                except grpc.aio.AioRpcError as error:
                    refused = error_of(error)
                    known = isinstance(refused, ResourceExhausted) and refused.retry_after
                    told["come again" if known else refused.message] += 1
                else:
                    told["taken"] += 1

            done = "SELECT count(*) FROM run_state WHERE status = 5"
            peak = await _peak(client, connection, done)
            await client.tenants.set("default", max_queued=ROOM)
            before, began = await connection.fetchval(done), time.perf_counter()
            await _offered(asked, TIMES * peak)
            goodput = (await connection.fetchval(done) - before) / (time.perf_counter() - began)
        answer(
            goodput_share=round(goodput / peak, 3),
            peak_per_s=round(peak, 1),
            goodput_per_s=round(goodput, 1),
            told=dict(told),
        )


async def _peak(client: Client, connection: Any, done: str) -> float:
    """Return the runs a second that are done while plenty wait and nobody asks for more."""
    group = [{"intent": "w2", "payload": {"number": 1}, "idempotency_key": f"peak/{n}"} for n in range(RUNS)]
    for at in range(0, RUNS, ROOM):
        await client.publish(group[at : at + ROOM])
    before, began = await connection.fetchval(done), time.perf_counter()
    wanted = before + (RUNS - before) * 9 // 10
    async with asyncio.timeout(PATIENCE):
        while (now := await connection.fetchval(done)) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return float((now - before) / (time.perf_counter() - began))


async def _offered(work: Callable[[], Awaitable[None]], per_second: float) -> None:
    """Begin it so often, whether or not the ones before are over."""
    began = time.perf_counter()
    running: set[asyncio.Task[None]] = set()
    count = 0
    while (elapsed := time.perf_counter() - began) < SECONDS:
        for _ in range(int(elapsed * per_second) - count):
            task = asyncio.ensure_future(work())
            running.add(task)
            task.add_done_callback(running.discard)
            count += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*running)
