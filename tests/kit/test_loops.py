"""A loop works until it is told to stop, whatever happens."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast.kit.loops import Loop
from tests.kit.until import until


@asynccontextmanager
async def running(loop: Loop) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.ensure_future(loop.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await task


def counting(results: list[int] | None = None) -> tuple[list[float], Callable[[], Awaitable[int]]]:
    rounds: list[float] = []

    async def run_once() -> int:
        rounds.append(time.monotonic())
        return results.pop(0) if results else 0

    return rounds, run_once


async def test_it_rounds_again_after_its_interval() -> None:
    rounds, run_once = counting()
    async with running(Loop("test", run_once, interval=0.02)):
        await until(lambda: len(rounds) >= 3)
    assert rounds[1] - rounds[0] >= 0.015


async def test_it_does_not_rest_while_there_is_work() -> None:
    rounds, run_once = counting([1, 1, 1])
    loop = Loop("test", run_once, interval=60)
    async with running(loop):
        await loop.signal.completed(4)
    assert len(rounds) == 4


async def test_a_loop_that_is_not_eager_rests_all_the_same() -> None:
    rounds, run_once = counting([1, 1, 1])
    loop = Loop("test", run_once, interval=60, eager=False)
    async with running(loop):
        await loop.signal.completed()
        with pytest.raises(TimeoutError):
            await loop.signal.completed(deadline=0.05)
    assert len(rounds) == 1


async def test_many_wake_ups_are_one_round() -> None:
    rounds, run_once = counting()
    loop = Loop("test", run_once, interval=60)
    async with running(loop):
        await loop.signal.completed()
        for _ in range(100):
            loop.wake()
        await loop.signal.completed()
    assert len(rounds) == 2


async def test_of_many_times_to_wake_up_at_the_earliest_holds() -> None:
    rounds, run_once = counting()
    loop = Loop("test", run_once, interval=60)
    async with running(loop):
        await loop.signal.completed()
        for seconds in (60, 0.02, 0.01, 30, 0.02):
            loop.wake_within(seconds)
        await loop.signal.completed()
        with pytest.raises(TimeoutError):
            await loop.signal.completed(deadline=0.1)
        loop.wake_within(60)
        loop.wake_within(0)
        await loop.signal.completed()
    assert len(rounds) == 3


async def test_a_wake_up_during_a_round_is_not_lost() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    rounds = 0

    async def run_once() -> int:
        nonlocal rounds
        rounds += 1
        entered.set()
        await go_on.wait()
        return 0

    loop = Loop("test", run_once, interval=60)
    async with running(loop):
        await entered.wait()
        loop.wake()
        go_on.set()
        await until(lambda: rounds >= 2)


async def test_a_failing_round_is_logged_and_does_not_end_the_loop(lines: list[dict[str, Any]]) -> None:
    async def run_once() -> int:
        raise RuntimeError("round is broken")

    loop = Loop("fragile", run_once, interval=0.001)
    async with running(loop):
        await loop.signal.completed(3)
    failures = [line for line in lines if line["event"] == "round failed"]
    assert len(failures) >= 3
    assert failures[0]["loop"] == "fragile"


async def test_waking_a_failing_loop_does_not_undo_its_pause() -> None:
    rounds = 0

    async def run_once() -> int:
        nonlocal rounds
        rounds += 1
        raise RuntimeError

    loop = Loop("fragile", run_once, interval=60, max_backoff=60)
    async with running(loop):
        await loop.signal.completed()
        loop.wake()
        with pytest.raises(TimeoutError):
            await loop.signal.completed(deadline=0.05)
    assert rounds == 1


async def test_it_tolerates_every_order_of_stops() -> None:
    rounds, run_once = counting()
    loop = Loop("test", run_once, interval=60)
    loop.stop()
    loop.stop()
    async with asyncio.timeout(5):
        await loop.run()
        await loop.run(asyncio.Event())
    loop.stop()
    stop = asyncio.Event()
    stop.set()
    other = Loop("other", run_once, interval=60)
    async with asyncio.timeout(5):
        await other.run(stop)
        other.stop()
    assert rounds == []


async def test_stopping_lets_the_round_in_progress_finish() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    finished = False

    async def run_once() -> int:
        nonlocal finished
        entered.set()
        await go_on.wait()
        finished = True
        return 0

    loop = Loop("test", run_once, interval=60)
    task = asyncio.ensure_future(loop.run())
    await entered.wait()
    loop.stop()
    go_on.set()
    async with asyncio.timeout(5):
        await task
    assert finished


async def test_stopping_does_not_wait_for_the_rest_to_end() -> None:
    _, run_once = counting()
    loop = Loop("test", run_once, interval=3600)
    task = asyncio.ensure_future(loop.run())
    await loop.signal.completed()
    loop.stop()
    async with asyncio.timeout(1):
        await task
