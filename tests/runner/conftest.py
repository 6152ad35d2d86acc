"""A platform, and runners in this process against it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Self

import pytest

from holdfast.agent import App
from holdfast.kit.rpc.server import Registration, Server
from holdfast.runner.agents import Agents
from holdfast.runner.commit_stream import CommitStream
from holdfast.runner.holding import Holding
from holdfast.runner.lease_stream import LeaseStream
from holdfast.runner.servicer import RunnerServicer
from holdfast.v1.runner_service_pb2_grpc import add_RunnerServiceServicer_to_server
from tests.runner.platform import Platform


class InProcessRunner:
    """The parts of a runner put together as its process does."""

    def __init__(self, app: App, platform: Platform, slots: int) -> None:
        self.commits = CommitStream([platform.address])
        self.holding = Holding(Agents([app]), self.commits, slots)
        servicer = RunnerServicer(self.holding, self.holding.drain)
        name = "holdfast.v1.RunnerService"
        self.server = Server(
            [Registration(add_RunnerServiceServicer_to_server, servicer, name)], "127.0.0.1:0"
        )
        self._platform = platform
        self._agents = Agents([app])
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.server.start()
        self.leases = LeaseStream([self._platform.address], self.server.address, self._agents, self.holding)
        self._tasks = [asyncio.create_task(self.commits.run()), asyncio.create_task(self.leases.run())]
        await self._platform.until(lambda: self._platform.credit == self.holding.slots)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.holding.drain(0.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.server.stop(0)


Runner = Callable[..., AbstractAsyncContextManager[InProcessRunner]]


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    """A platform on loopback."""
    served = Platform()
    await served.start()
    yield served
    await served.stop()


@pytest.fixture
def runner(platform: Platform) -> Runner:
    """Make runners of an app."""

    @contextlib.asynccontextmanager
    async def running(app: App, slots: int = 8) -> AsyncIterator[InProcessRunner]:
        async with InProcessRunner(app, platform, slots) as made:
            yield made

    return running
