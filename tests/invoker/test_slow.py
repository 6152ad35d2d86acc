"""Whoever reads slowly, or not at all, loses nothing, holds up nobody, and costs little memory."""

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.invoker.live import MAX_BUFFERED_BYTES, Feed, Room, _taken_apart
from holdfast.kit.rpc.client import channel
from holdfast.v1 import runner_service_pb2, transcript_pb2
from tests.invoker.runner import Held, Runner, runner
from tests.invoker.stand import Invoker, Stubs, invoker, pb
from tests.invoker.test_process import invoker_process
from tests.invoker.watcher import Watcher
from tests.invoker.wire import wire
from tests.kit.until import until

MEBIBYTE = 1024 * 1024


async def rest_of(call: Any) -> list[transcript_pb2.RunEvent]:
    """Read a watch to its end."""
    events = []
    async with asyncio.timeout(60):
        while (update := await call.read()) is not grpc.aio.EOF:
            events.append(update.event)
    return events


def say(held: Held, events: int, size: int = 20) -> None:
    """Let so many events happen, of so many characters."""
    held.show(*(f"{n} {'x' * size}" for n in range(events)))


async def test_a_reader_a_thousand_times_slower_than_the_others_sees_all_of_it(
    door: Invoker, worker: Runner
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    slow = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id))
    brisk = [Watcher(door, run_id) for _ in range(2)]
    seen = []
    for n in range(1, 21):
        say(held, 1000)
        await worker.commit(held)
        for each in brisk:
            await until(partial(_has, each, n * 1000), deadline=30)
        seen.append((await slow.read()).event)
        assert door.parts.live.room.held <= 3 * MAX_BUFFERED_BYTES
    await worker.end(held)
    expected = await brisk[0].finished()
    assert len(expected) == 20_002
    assert await brisk[1].finished() == expected
    assert seen + await rest_of(slow) == expected


def _has(watcher: Watcher, events: int) -> bool:
    return len(watcher.events) > events


async def test_what_nobody_reads_is_bounded_for_all_together(door: Invoker, worker: Runner) -> None:
    most = 2 * MEBIBYTE
    room = door.parts.live.room = Room(most)
    runs = [(await door.invoke(idempotency_key=f"{n}")).run.run_id for n in range(4)]
    idle = [door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id)) for run_id in runs for _ in range(4)]
    brisk = [Watcher(door, run_id) for run_id in runs]
    held = [await worker.take(run_id) for run_id in runs]
    for _ in range(60):  # 12 MiB of each run, far beyond what connections take in for a reader
        for each in held:
            say(each, 10, 20_000)
            await worker.commit(each)
        assert room.held <= most
    for each in held:
        await worker.end(each)
    expected = {watcher.run_id: await watcher.finished() for watcher in brisk}
    for call, run_id in zip(idle, [run_id for run_id in runs for _ in range(4)], strict=True):
        assert await rest_of(call) == expected[run_id]
    await until(lambda: room.held == 0)


async def test_a_client_that_fell_silent_is_given_up_and_the_others_hear_everything(
    database_url: str, commits: str
) -> None:
    async with invoker(database_url, keepalive=0.6) as door, runner(door.address, commits, slots=1) as worker:
        run_id = (await door.invoke()).run.run_id
        held = await worker.take(run_id)
        brisk = Watcher(door, run_id)
        async with wire(door.address) as line, channel(line.address) as opened:
            call = Stubs(opened).invoker.WatchRun(pb.WatchRunRequest(run_id=run_id))
            await call.read()
            line.silence()
            await until(lambda: _followers(door) == 2)
            for _ in range(50):
                say(held, 100, 1000)
                await worker.commit(held)
            await until(lambda: len(brisk.events) == 5001, deadline=30)
            await until(lambda: _followers(door) == 1, deadline=30)
            assert not brisk.ended
            call.cancel()
        await worker.end(held)
        assert len(await brisk.finished()) == 5002


def _followers(door: Invoker) -> int:
    return sum(len(each) for each in door.parts.followers._following.values())


@pytest.mark.parametrize("streams", [2000])
async def test_idle_streams_cost_little_memory(database_url: str, streams: int) -> None:
    async with invoker_process(database_url, QUEUE_UNKNOWN_INTENTS="1") as door:
        runs = [(await door.invoke(idempotency_key=f"{n}")).run.run_id for n in range(20)]
        before = resident(door.process.pid)
        calls: list[Any] = []
        while len(calls) < streams:
            more = [door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id)) for run_id in runs * 10]
            await asyncio.gather(*(call.read() for call in more))
            calls += more
        cost = (resident(door.process.pid) - before) / streams
        assert cost < 64 * 1024, f"{cost / 1024:.0f} KiB a stream"
        for call in calls:
            call.cancel()


def resident(pid: int) -> int:
    """Return the bytes of memory a process holds."""
    told = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert told is not None
    return int(told.group(1)) * 1024


def message(epoch: int, first: int, count: int, size: int = 10) -> runner_service_pb2.AttachResponse:
    """Return what a runner says of a run."""
    said = transcript_pb2.Said(text="x" * size)
    events = [transcript_pb2.RunEvent(sequence=first + n, epoch=epoch, said=said) for n in range(count)]
    return runner_service_pb2.AttachResponse(
        run_id="r", epoch=epoch, events=transcript_pb2.EventBatch(events=events)
    )


def put(feed: Feed, one: runner_service_pb2.AttachResponse) -> None:
    feed.put(one, one.ByteSize())


async def read(feed: Feed) -> list[tuple[int, int]]:
    """Return epoch and sequence of all that a feed holds; it must have ended."""
    messages = [each async for each in feed.messages() if each is not None]
    return [(each.epoch, event.sequence) for each in messages for event in each.events.events]


async def test_the_feed_that_holds_most_gives_way_and_what_is_left_is_whole() -> None:
    room = Room(most=30_000)
    feeds = [Feed("r", room, lambda _: None) for _ in range(3)]
    for feed, count in zip(feeds, (1, 3, 2), strict=True):
        for n in range(count):
            put(feed, message(1, n + 1, 1, 5000))
    assert room.held <= 30_000
    for feed in feeds:
        feed.end()
    assert [len(await read(feed)) for feed in feeds] == [1, 0, 2]
    assert room.held == 0


async def test_a_feed_takes_nothing_twice_and_what_another_lease_says_anew() -> None:
    feed = Feed("r", Room(), lambda _: None)
    for one in (message(1, 5, 3), message(1, 1, 4), message(1, 5, 4), message(2, 4, 2)):
        put(feed, one)
    feed.end()
    assert await read(feed) == [(1, n) for n in (5, 6, 7, 5, 6, 7, 8)] + [(2, 4), (2, 5)]


async def test_who_reads_a_feed_looks_up_after_a_knock_and_misses_nothing() -> None:
    feed = Feed("r", Room(), lambda _: None)
    messages = feed.messages()
    put(feed, message(1, 1, 1))
    feed.knock()
    feed.knock()
    put(feed, message(1, 2, 1))
    feed.end()
    assert [each and each.events.events[0].sequence async for each in messages] == [None, 1, 2]


def test_of_a_shared_message_each_run_keeps_its_own_part() -> None:
    shared = message(1, 1, 1)
    for n in range(2):
        shared.others.append(message(2, 5 + n, 1))
    parts = _taken_apart(shared)
    assert parts == [message(1, 1, 1), message(2, 5, 1), message(2, 6, 1)]
    lone = message(1, 1, 1)
    assert _taken_apart(lone) == [lone]
