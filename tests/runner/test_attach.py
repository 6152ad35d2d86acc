import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from holdfast.agent import App, Run
from holdfast.runner import memory, servicer
from holdfast.v1.run_pb2 import RunStatus
from holdfast.v1.runner_service_pb2 import (
    AttachCancel,
    AttachRequest,
    AttachResponse,
    AttachSubscribe,
    DrainRequest,
)
from holdfast.v1.runner_service_pb2_grpc import RunnerServiceStub
from tests.runner.conftest import Runner
from tests.runner.platform import Platform


class Follower:
    """One Attach stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def subscribe(self, run_id: str, after: int = 0, *, bundles: bool = False) -> None:
        subscribe = AttachSubscribe(after_sequence=after, bundles=bundles)
        await self._call.write(AttachRequest(run_id=run_id, subscribe=subscribe))

    async def cancel(self, run_id: str, reason: str) -> None:
        await self._call.write(AttachRequest(run_id=run_id, cancel=AttachCancel(reason=reason)))

    async def read(self) -> AttachResponse:
        async with asyncio.timeout(5):
            response: AttachResponse = await self._call.read()
            return response

    async def until_gone(self) -> tuple[list[Any], bool]:
        """Return the events up to the run's leaving, and whether it ended."""
        events: list[Any] = []
        while True:
            response = await self.read()
            if response.HasField("gone"):
                return events, response.gone.ended
            events.extend(response.events.events)


@asynccontextmanager
async def _attached(address: str) -> AsyncIterator[Follower]:
    async with grpc.aio.insecure_channel(address) as channel:
        call = RunnerServiceStub(channel).Attach()
        yield Follower(call)
        call.cancel()


def _app() -> tuple[App, asyncio.Event, asyncio.Event]:
    app = App("talk")
    speaking, go_on = asyncio.Event(), asyncio.Event()

    @app.agent("talk")
    async def talk(run: Run) -> None:
        async def speak() -> None:
            for piece in ("one ", "two ", "three"):
                run.token(piece)
            speaking.set()
            await go_on.wait()

        run.say("hello")
        await run.step(speak)

    return app, speaking, go_on


async def test_events_are_told_as_they_happen_before_they_are_committed(
    platform: Platform, runner: Runner
) -> None:
    app, speaking, go_on = _app()
    run = platform.add("talk")
    async with runner(app) as running, _attached(running.server.address) as follower:
        await follower.subscribe(run.run_id, after=1)  # before its assignment arrives
        platform.lease(run)
        await speaking.wait()
        seen: list[Any] = []
        while not any(event.HasField("token") for event in seen):
            response = await follower.read()
            assert response.epoch == 1
            seen.extend(response.events.events)
        assert run.commits == []
        go_on.set()
        rest, ended = await follower.until_gone()
    assert ended
    events = seen + rest
    assert [event.sequence for event in events] == list(range(2, len(events) + 2))
    assert "".join(event.token.text for event in events) == "one two three"
    assert events == run.events


@pytest.mark.parametrize("bundles", [False, True])
async def test_runs_that_speak_at_once_share_messages_to_who_reads_such(
    platform: Platform, runner: Runner, *, bundles: bool
) -> None:
    app = App("choir")
    sing = asyncio.Event()

    @app.agent("choir")
    async def choir(run: Run) -> None:
        await sing.wait()
        for verse in range(3):
            run.say(f"verse {verse}")
            await asyncio.sleep(0.05)

    runs = [platform.add("choir") for _ in range(5)]
    told: dict[str, list[Any]] = {run.run_id: [] for run in runs}
    shared = 0
    async with runner(app) as running, _attached(running.server.address) as follower:
        for run in runs:
            platform.lease(run)
            await follower.subscribe(run.run_id, after=1, bundles=bundles)
        gone: set[str] = set()
        while len(gone) < len(runs):
            message = await follower.read()
            shared += len(message.others)
            for each in (message, *message.others):
                told[each.run_id].extend(each.events.events)
                gone |= {each.run_id} if each.HasField("gone") else set()
                assert each is message or not each.others
            if all(told.values()):
                sing.set()
    assert (shared > 0) is bundles
    for run in runs:
        assert told[run.run_id] == run.events


async def test_a_follower_that_leaves_and_comes_again_misses_nothing(
    platform: Platform, runner: Runner
) -> None:
    app, speaking, go_on = _app()
    run = platform.add("talk")
    async with runner(app) as running:
        platform.lease(run)
        await speaking.wait()
        async with _attached(running.server.address) as first:
            await first.subscribe(run.run_id, after=1)
            seen = list((await first.read()).events.events)
        go_on.set()
        async with _attached(running.server.address) as second:
            await second.subscribe(run.run_id, after=seen[-1].sequence)
            rest, _ = await second.until_gone()
        await run.moved.wait()
    assert [*seen, *rest] == run.events


async def test_a_run_that_is_not_here_is_gone(platform: Platform, runner: Runner) -> None:
    app, _, go_on = _app()
    go_on.set()
    run = platform.add("talk")
    async with runner(app) as running, _attached(running.server.address) as follower:
        await follower.subscribe("11111111-1111-1111-1111-111111111111")
        assert await follower.until_gone() == ([], False)
        platform.lease(run)
        await platform.until(lambda: platform.ended == [run.run_id])
        await follower.subscribe(run.run_id, after=1)
        assert await follower.until_gone() == ([], True)


async def test_events_that_are_no_longer_kept_are_to_be_read_from_the_ledger(
    platform: Platform, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MAX_EVENTS", 10)
    app = App("many")
    done, go_on = asyncio.Event(), asyncio.Event()

    async def nothing() -> None:
        pass

    @app.agent("many")
    async def many(run: Run) -> None:
        for number in range(300):
            run.say(str(number))
        await run.step(nothing)
        done.set()
        await go_on.wait()

    run = platform.add("many")
    async with runner(app) as running, _attached(running.server.address) as follower:
        platform.lease(run)
        await done.wait()
        await follower.subscribe(run.run_id, after=1)
        behind = (await follower.read()).behind
        assert behind.committed_sequence == run.events[-1].sequence
        assert 1 < behind.first_sequence <= behind.committed_sequence + 1
        await follower.subscribe(run.run_id, after=behind.committed_sequence)
        go_on.set()
        events, ended = await follower.until_gone()
    assert ended
    assert [event.WhichOneof("event") for event in events] == ["ended"]


async def test_large_events_come_in_messages_that_arrive(platform: Platform, runner: Runner) -> None:
    app = App("loud")
    said, go_on = asyncio.Event(), asyncio.Event()

    @app.agent("loud")
    async def loud(run: Run) -> None:
        for _ in range(15):
            run.say("x" * 200_000)
        said.set()
        await go_on.wait()

    run = platform.add("loud")
    async with runner(app) as running, _attached(running.server.address) as follower:
        platform.lease(run)
        await said.wait()
        await follower.subscribe(run.run_id, after=1)
        said_so_far: list[str] = []
        while len(said_so_far) < 15:
            response = await follower.read()
            assert response.ByteSize() <= servicer.PAGE_BYTES
            said_so_far += [event.said.text for event in response.events.events if event.HasField("said")]
        go_on.set()
        await follower.until_gone()


async def test_a_run_is_cancelled_over_the_stream_within_a_tenth_of_a_second(
    platform: Platform, runner: Runner
) -> None:
    app, speaking, _ = _app()
    run = platform.add("talk")
    async with runner(app) as running, _attached(running.server.address) as follower:
        platform.lease(run)
        await speaking.wait()
        began = asyncio.get_running_loop().time()
        await follower.cancel(run.run_id, "changed my mind")
        await run.moved.wait()
        assert asyncio.get_running_loop().time() - began < 0.5  # a tenth on a machine of one's own
    assert run.outcome.status == RunStatus.RUN_STATUS_CANCELLED


async def test_draining_over_the_wire_reports_what_became_of_the_runs(
    platform: Platform, runner: Runner
) -> None:
    app, speaking, _ = _app()
    run = platform.add("talk")
    async with runner(app) as running:
        platform.lease(run)
        await speaking.wait()
        async with grpc.aio.insecure_channel(running.server.address) as channel:
            drained = await RunnerServiceStub(channel).Drain(DrainRequest(grace_ms=1))
    assert (drained.finished, drained.handed_back) == (0, 1)
