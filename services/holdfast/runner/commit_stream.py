"""One stream carries the commits of all runs; each is answered once, over any number of broken streams.

waiting ──(next tick)──▶ sent ──(committed | refused)──▶ answered
   ▲                      │ stream broken: at once over the next one
   └──────────────────────┘ refused, but retryable: after a pause
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import grpc

from holdfast.agent.engine.journal import Answer, Committed, Refused
from holdfast.kit.rpc.client import streaming
from holdfast.kit.telemetry.logs import logger
from holdfast.runner.capability import shown
from holdfast.runner.duplex import BROKEN, both, code_of
from holdfast.runner.way import OPEN, Way
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.checkpoint_service_pb2 import CommitAnswer, CommitRequest, CommitResponse, LoadRunRequest
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub

MAX_COMMITS: Final = 256
MAX_BYTES: Final = 3 * 1024 * 1024
FIRST_PAUSE: Final = 0.05  # seconds
LONGEST_PAUSE: Final = 2.0

Answered = Callable[[Answer], None]
Key = tuple[str, int]

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

_log: Final = logger("commit")


class _Open:
    """A commit that is not answered."""

    __slots__ = ("about", "answered", "commit", "refusals", "size")

    def __init__(self, commit: Commit, answered: Answered, about: Mapping[str, str]) -> None:
        self.about = about
        self.commit = commit
        self.answered = answered
        self.size = commit.ByteSize() + 8
        self.refusals = 0


class CommitStream:
    """Sends commits to the Checkpoint services, the next address whenever one does not serve."""

    def __init__(self, addresses: Sequence[str], way: Way = OPEN) -> None:
        self._proof = way.proof
        # Without interceptors: each would put a queue between us and the stream.
        self._channels = way.channels(addresses, seals=False, deadlines=False)  # commits come sealed
        self._current = 0
        self._open: dict[Key, _Open] = {}
        self._waiting: list[Key] = []
        self._wake = asyncio.Event()
        self._failures = 0

    @property
    def stub(self) -> CheckpointServiceStub:
        """The service that is used now."""
        return CheckpointServiceStub(self._channels[self._current])

    def commit(self, commit: Commit, answered: Answered, about: Mapping[str, str] = _NOTHING) -> None:
        """Send a commit with the others of this tick; a run has at most one open under an epoch.

        What is logged of it says `about` which run it is, beside its id.
        """
        key = (commit.run_id, commit.epoch)
        each = _Open(commit, answered, about)
        if each.size > MAX_BYTES:  # it would break the stream for all runs, again and again
            refusal = Refused(
                "INVALID_FIELD", f"the commit takes {each.size:,} bytes, and {MAX_BYTES:,} are the most"
            )
            asyncio.get_running_loop().call_soon(answered, refusal)
            return
        self._open[key] = each
        self._waiting.append(key)
        self._wake.set()

    def forget(self, run_id: str, epoch: int) -> None:
        """Send a run's commit no more; what is under way may still land. Repeatable."""
        self._open.pop((run_id, epoch), None)

    async def load(self, run_id: str, epoch: int) -> list[Any]:
        """Return the recorded steps of a leased run, in pages. Raises `grpc.aio.AioRpcError`."""
        async with streaming(
            self.stub.LoadRun(
                LoadRunRequest(run_id=run_id, epoch=epoch), metadata=(*self._proof.metadata(), *shown())
            )
        ) as pages:
            return [page async for page in pages]

    def next_address(self) -> None:
        """Use the next address from here on: the current one does not serve."""
        self._current = (self._current + 1) % len(self._channels)

    async def run(self) -> None:
        """Keep a stream open and commits flowing until cancelled."""
        try:
            while True:
                await self._connected()
                self._failures += 1
                self.next_address()
                await asyncio.sleep(_pause(self._failures))
        finally:
            await self._channels.close()

    async def _connected(self) -> None:
        """Use one stream until it breaks."""
        self._waiting = list(self._open)  # all of it: what became of those sent before is unknown
        self._wake.set()
        try:
            async with streaming(self.stub.Commit(metadata=self._proof.metadata())) as call:
                await both(self._read(call), self._write(call))
            _log.info("commit stream ended", open=len(self._open))
        except BROKEN as error:
            if self._open or not self._failures:
                _log.warning("commit stream broken", code=code_of(error), open=len(self._open))

    async def _read(self, call: Any) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            self._answer(response)

    async def _write(self, call: Any) -> None:
        """Write what waits; the commits of one tick of the event loop share a message."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            batch: list[Commit] = []
            size = 0
            for key in waiting:
                each = self._open.get(key)
                if each is None:
                    continue
                if batch and (len(batch) == MAX_COMMITS or size + each.size > MAX_BYTES):
                    await call.write(CommitRequest(commits=batch))
                    batch, size = [], 0
                batch.append(each.commit)
                size += each.size
            if batch:
                await call.write(CommitRequest(commits=batch))

    def _answer(self, response: CommitResponse) -> None:
        self._failures = 0
        for answer in response.answers:
            key = (answer.run_id, answer.epoch)
            each = self._open.get(key)
            if each is None or each.commit.number != answer.number:
                continue  # answered before, over a stream that broke
            if answer.HasField("refused") and answer.refused.retryable:
                self._try_later(key, each, answer)
                continue
            del self._open[key]
            if answer.HasField("committed"):
                each.answered(Committed(answer.committed.cancel_requested))
            else:
                each.answered(Refused(answer.refused.reason, answer.refused.message))

    def _try_later(self, key: Key, each: _Open, answer: CommitAnswer) -> None:
        each.refusals += 1
        pause = _pause(each.refusals)
        about = {**each.about, "run_id": key[0]}
        _log.warning("commit put off", reason=answer.refused.reason, pause_s=round(pause, 3), **about)
        asyncio.get_running_loop().call_later(pause, self._again, key, each)

    def _again(self, key: Key, each: _Open) -> None:
        if self._open.get(key) is each:
            self._waiting.append(key)
            self._wake.set()


def _pause(failures: int) -> float:
    ceiling: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 -- spreads load, keeps no secret
