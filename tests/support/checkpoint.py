"""A real Checkpoint process, and a runner's side of its stream."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.kit.rpc.client import channel, streaming
from holdfast.ledger.values import Leased
from holdfast.v1 import checkpoint_service_pb2 as pb
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from holdfast.v1.run_pb2 import RUN_STATUS_SUCCEEDED
from holdfast.v1.transcript_pb2 import STEP_KIND_FUNCTION

PATIENCE = 20.0
FINGERPRINT = hashlib.sha256(b"fetch()").digest()


class CheckpointProcess:
    """A process of the service and how to reach it."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[CheckpointServiceStub]:
        """Open a channel to it."""
        async with channel(self.address) as opened:
            yield CheckpointServiceStub(opened)

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


@asynccontextmanager
async def checkpoint_process(database_url: str, **more: str) -> AsyncIterator[CheckpointProcess]:
    """Start the service as its own process, ready; kill it at the end if it still lives."""
    environ = {
        **os.environ,
        "HOLDFAST_DATABASE_URL": database_url,
        "HOLDFAST_LISTEN": "127.0.0.1:0",
        "HOLDFAST_DIE_WITH_PARENT": "1",
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast.checkpoint", env=environ, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        yield CheckpointProcess(process, json.loads(line)["address"])
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Wire:
    """A runner's stream: sends commits and waits for the answers it is owed."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, *commits: Commit) -> None:
        """Send one message."""
        await self.call.write(pb.CommitRequest(commits=commits))

    async def answers(self, n: int = 1) -> list[pb.CommitAnswer]:
        """Read exactly `n` answers."""
        found: list[pb.CommitAnswer] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < n:
                response = await self.call.read()
                assert response is not grpc.aio.EOF, await self.call.details()
                found += response.answers
        assert len(found) == n
        return found

    async def ask(self, *commits: Commit) -> list[pb.CommitAnswer]:
        """Send commits in one message and return their answers in the same order."""
        await self.send(*commits)
        found = {(answer.run_id, answer.number): answer for answer in await self.answers(len(commits))}
        return [found[commit.run_id, commit.number] for commit in commits]

    async def read_to_the_end(self, found: list[str]) -> None:
        """Add what became of each answered commit, until the stream ends (with an `AioRpcError` if badly)."""
        async with asyncio.timeout(PATIENCE):
            while (response := await self.call.read()) is not grpc.aio.EOF:
                found += reasons(response.answers)


@asynccontextmanager
async def wire(stub: CheckpointServiceStub) -> AsyncIterator[Wire]:
    """Open a commit stream."""
    async with streaming(stub.Commit()) as call:
        yield Wire(call)


def message(
    run: Leased, number: int, *keys: str, events: int = 0, first: int = 0, end: bool = False
) -> Commit:
    """Return a well-formed commit of steps by key and of some events."""
    run_id = str(run.run_id)
    commit = Commit(run_id=run_id, epoch=run.epoch, number=number)
    for key in keys:
        step = commit.steps.add(key=key, kind=STEP_KIND_FUNCTION, fingerprint=FINGERPRINT, attempts=1)
        step.input, step.output = b'{"ticket": 7}', b'{"found": [1, 2.5, true, null, "x"]}'
        step.usage.steps = 1
    for at in range(events):
        sequence = (first or run.last_sequence + 1) + at
        event = commit.events.events.add(
            run_id=run_id, sequence=sequence, epoch=run.epoch, attempt=run.attempt
        )
        event.said.text = f"line {sequence}"
    if end:
        commit.end.status = RUN_STATUS_SUCCEEDED
        commit.end.result.struct_value.fields["done"].bool_value = True
    return commit


def reasons(answers: Sequence[pb.CommitAnswer]) -> list[str]:
    """Name what became of each commit: a reason, or COMMITTED."""
    return [answer.refused.reason if answer.HasField("refused") else "COMMITTED" for answer in answers]


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the ErrorReason of a failed call."""
    status: Any = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details)
    reason: str = info.reason
    return reason
