"""How fast a batch goes: items a second from its start until every item's outcome is recorded."""

import time
from collections.abc import Iterator

from bench.measure import Meter
from bench.protocol import Question, answer
from holdfast.client import BatchInput, BatchItemStatus, BatchSpec, Client, Invocation
from holdfast.dev import Suite

AGENTS = "bench.ours.agents:app"
WARM_UP_ITEMS = 500
IN_FLIGHT = 500


def _items(count: int) -> Iterator[BatchInput]:
    return (BatchInput({"number": number}) for number in range(count))


async def _through(client: Client, intent: str, count: int, *, meter: Meter | None = None) -> float:
    """Run a batch to its end; return the seconds from its start."""
    spec = BatchSpec(Invocation(intent), max_parallelism=IN_FLIGHT)
    batch = await client.batches.create(spec, list(_items(count)))
    if meter is not None:
        meter.start()
    began = time.perf_counter()
    await client.batches.start(batch.batch_id)
    async for now, progress in client.batches.watch(batch.batch_id, interval=0.1):
        if not progress.counts.get(BatchItemStatus.PENDING) and progress.ended == progress.total:
            seconds = time.perf_counter() - began
            staged = progress.counts.get(BatchItemStatus.STAGED, 0)
            if staged != count:
                raise RuntimeError(
                    f"{staged} of {count} items succeeded: {progress.errors} ({now.status.name})"
                )
            return seconds
    raise RuntimeError("the batch was not followed to its end")


async def _measure(question: Question, intent: str) -> None:
    async with (
        Suite(agents=[AGENTS], ephemeral=True, supervise=False) as suite,
        Client(suite.invoker_addresses[0]) as client,
    ):
        pids = {name: process.pid for name, process in suite.processes.items()}
        if suite.postgres is not None:
            pids["postgres"] = suite.postgres.pid
        await _through(client, intent, WARM_UP_ITEMS)
        meter = Meter(pids)
        seconds = await _through(client, intent, question.runs, meter=meter)
        facts = meter.read(question.runs) | {"seconds": round(seconds, 3)}
        answer(items_per_s=round(question.runs / seconds, 1), **facts)


async def runs(question: Question) -> None:
    """Answer with items a second where each is a run of one step."""
    await _measure(question, "w2")


async def light(question: Question) -> None:
    """Answer with items a second where each is a light item of one step."""
    await _measure(question, "w2_light")
