"""The runner in Go as a process, and the calls a test makes of the services around it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import json_format

from holdfast.v1 import (
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    effect_pb2,
    invoker_service_pb2,
    invoker_service_pb2_grpc,
    outbox_service_pb2,
    outbox_service_pb2_grpc,
    run_pb2,
    transcript_pb2,
)
from tests.kit.until import until
from tests.polyglot.languages import LANGUAGES
from tests.polyglot.toolchain import program

INTENT = "polyglot.transfer"
DEADLINE_S = 30.0


class Worker:
    """One process; `lines` is what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.lines: list[str] = []
        self._process = process
        self._reader = asyncio.create_task(self._read())

    async def printed(self, *words: str) -> None:
        """Wait until it has printed a line that begins with these words."""
        start = " ".join(words)
        await until(lambda: any(line.startswith(start) for line in self.lines), deadline=DEADLINE_S)

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end; return its exit code. Repeatable."""
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            await self._process.wait()
            await self._reader
        return self._process.returncode or 0

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode().rstrip())


@asynccontextmanager
async def worker(suite: dict[str, str], **told: str) -> AsyncIterator[Worker]:
    """Start one, in session; `told` are places that it shall find elsewhere. It is killed at the end."""
    places = {f"HOLDFAST_{name.upper()}": address for name, address in (suite | told).items()}
    process = await asyncio.create_subprocess_exec(
        *program(LANGUAGES["go"], "worker"),
        cwd=LANGUAGES["go"].folder,
        env={**os.environ, **places},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    one = Worker(process)
    try:
        await one.printed("in session")
        yield one
    finally:
        await one.end(signal.SIGKILL)


class Tenant:
    """The services as a client of one tenant calls them."""

    def __init__(self, name: str, channels: dict[str, grpc.aio.Channel]) -> None:
        self._metadata = [("holdfast-tenant", name)]
        self._invoker: Any = invoker_service_pb2_grpc.InvokerServiceStub(channels["invoker"])
        self._outbox: Any = outbox_service_pb2_grpc.OutboxServiceStub(channels["dispatcher"])
        self.checkpoint: Any = checkpoint_service_pb2_grpc.CheckpointServiceStub(channels["checkpoint"])

    async def send_receipts_to(self, url: str) -> None:
        """Say where the worker's effects go."""
        destination = effect_pb2.Destination(name="receipts", http=effect_pb2.HttpEndpoint(url=url))
        request = outbox_service_pb2.PutDestinationRequest(destination=destination)
        await self._outbox.PutDestination(request, metadata=self._metadata)

    async def invoke(self, payload: dict[str, Any], **more: Any) -> str:
        """Start a run of the worker's intent; return its id."""
        request = invoker_service_pb2.InvokeRequest(intent=INTENT, **more)
        json_format.ParseDict(payload, request.payload)
        answer = await self._invoker.Invoke(request, metadata=self._metadata)
        return str(answer.run.run_id)

    async def ended(self, run_id: str) -> run_pb2.Run:
        """Wait for a run's end."""
        request = invoker_service_pb2.AwaitRunRequest(run_id=run_id)
        request.wait.FromSeconds(int(DEADLINE_S))
        run: run_pb2.Run = (await self._invoker.AwaitRun(request, metadata=self._metadata)).run
        assert run.HasField("outcome"), run
        return run

    async def run(self, run_id: str) -> run_pb2.Run:
        """Read a run."""
        request = invoker_service_pb2.GetRunRequest(run_id=run_id)
        run: run_pb2.Run = (await self._invoker.GetRun(request, metadata=self._metadata)).run
        return run

    async def cancel(self, run_id: str, reason: str) -> None:
        """Ask a run to stop."""
        request = invoker_service_pb2.CancelRunRequest(run_id=run_id, reason=reason)
        await self._invoker.CancelRun(request, metadata=self._metadata)

    async def pause(self, run_id: str) -> None:
        """Hold a run."""
        request = invoker_service_pb2.PauseRunRequest(run_id=run_id, reason="look first")
        await self._invoker.PauseRun(request, metadata=self._metadata)

    async def resume(self, run_id: str) -> None:
        """Let a held run go on."""
        request = invoker_service_pb2.ResumeRunRequest(run_id=run_id)
        await self._invoker.ResumeRun(request, metadata=self._metadata)

    async def transcript(self, run_id: str) -> list[transcript_pb2.RunEvent]:
        """Return the events of a run that has ended."""
        request = invoker_service_pb2.WatchRunRequest(run_id=run_id)
        call = self._invoker.WatchRun(request, metadata=self._metadata, timeout=DEADLINE_S)
        return [response.event async for response in call]

    async def checkpoints(self, run_id: str) -> dict[str, int]:
        """Return which steps are recorded, and by which attempt of the run."""
        request = checkpoint_service_pb2.ListCheckpointsRequest(run_id=run_id)
        listed = await self.checkpoint.ListCheckpoints(request, metadata=self._metadata)
        return {each.key: each.run_attempt for each in listed.checkpoints}


@asynccontextmanager
async def tenant(name: str, suite: dict[str, str]) -> AsyncIterator[Tenant]:
    """Open the channels of a tenant's client."""
    channels = {place: grpc.aio.insecure_channel(address) for place, address in suite.items()}
    try:
        yield Tenant(name, channels)
    finally:
        for channel in channels.values():
            await channel.close()
