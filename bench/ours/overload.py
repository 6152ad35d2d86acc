"""What is left of the peak when three times as much is asked for: runs done, and what the rest is told."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from bench.http2 import Calls
from bench.ours.heeding import HeedingCalls
from bench.ours.load import connect, succeeded
from bench.ours.worker import PATIENCE, standing
from bench.protocol import Question, answer
from holdfast.client import Client

AT_ONCE: Final = {"w2": 256, "w2_thinking": 512}
"""Calls open at the peak: more would bring nothing, and of the first even less, for it would queue."""
HEEDING: Final = "heeding"
ROOM: Final = 500
SECONDS: Final = 10.0
SETTLING: Final = 2.0
PAUSE: Final = 3.0
"""Until nobody is refused for what was refused before."""
TICK: Final = 0.005
TIMES: Final = 3


async def overload(question: Question) -> None:
    """Answer with the runs a second done at three times the peak, as a share of the peak.

    Each call waits for its run. At the peak so many are open that more would bring nothing; then three times
    as many are begun as were done, whether or not those before have ended. The peak is measured again
    afterwards and the mean of both is taken, for the machine's speed may have changed meanwhile. The
    variant names the intent: of `w2` the processors are the capacity, of `w2_thinking` the runner's slots.
    Who calls hears nothing of what it is told, but with the variant `heeding` it does as `holdfast.client`.
    """
    heeding = question.variant == HEEDING
    intent = "w2" if heeding else question.variant or "w2"
    async with standing() as (suite, _, connection):
        at = suite.invoker_addresses[0]
        async with Client(at, timeout=PATIENCE) as client:
            await client.tenants.set("default", max_queued=ROOM)
            await (await client.invoke(intent, {"number": 1})).result(patience=PATIENCE)
            calls = connect(at, intent, HeedingCalls if heeding else Calls)
            before = await _done(connection, calls, lambda _elapsed: AT_ONCE[intent] - calls.open)
            calls.told.clear()
            goodput = await _done(connection, calls, _offered(TIMES * before))
            told = dict(calls.told)
            await asyncio.sleep(PAUSE)
            after = await _done(connection, calls, lambda _elapsed: AT_ONCE[intent] - calls.open)
        peak = (before + after) / 2
        answer(
            goodput_share=round(goodput / peak, 3),
            peak_per_s=round(peak, 1),
            goodput_per_s=round(goodput, 1),
            told=told,
        )


def _offered(per_second: float) -> Callable[[float], int]:
    """Return how many calls are due, asked again and again with the seconds so far."""
    begun = 0

    def due(elapsed: float) -> int:
        nonlocal begun
        count = int(elapsed * per_second) - begun
        begun += count
        return count

    return due


async def _done(connection: Any, calls: Calls, due: Callable[[float], int]) -> float:
    """Begin the calls that are due, and return the runs a second that are done once it goes on evenly."""
    began = time.perf_counter()
    settled: tuple[float, int] | None = None
    while (elapsed := time.perf_counter() - began) < SETTLING + SECONDS:
        if settled is None and elapsed >= SETTLING:
            settled = (time.perf_counter(), await succeeded(connection))
        calls.turn(due(time.perf_counter() - began))
        await asyncio.sleep(TICK)
    assert settled is not None
    done = await succeeded(connection) - settled[1]
    rate = done / (time.perf_counter() - settled[0])
    async with asyncio.timeout(PATIENCE):
        while calls.open:
            calls.turn(0)
            await asyncio.sleep(TICK)
    return float(rate)
