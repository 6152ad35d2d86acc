"""RunnerService: what happens in the runs held here, to whoever follows them, at the follower's own pace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from holdfast.agent.engine.mailbox import pushed_signal
from holdfast.agent.error import RunCancelled
from holdfast.kit.errors import InvalidField, Violation
from holdfast.runner.holding import Holding
from holdfast.runner.memory import RunMemory
from holdfast.v1.runner_service_pb2 import (
    AttachBehind,
    AttachGone,
    AttachRequest,
    AttachResponse,
    DrainRequest,
    DrainResponse,
)
from holdfast.v1.runner_service_pb2_grpc import RunnerServiceServicer as Contract
from holdfast.v1.transcript_pb2 import EventBatch

PAGE: Final = 256
"""Events in one message, at most."""
PAGE_BYTES: Final = 256 * 1024
"""Their bytes together, unless one event alone is larger: a message must stay well below 4 MiB."""
BUNDLE_BYTES: Final = 64 * 1024
"""From which a message takes no other runs in."""
PATIENCE: Final = 0.3
"""Seconds a follower waits for a run whose assignment may still be on its way."""
MAX_GRACE_MS: Final = 24 * 3600 * 1000


class RunnerServicer(Contract):
    """Serves `holdfast.v1.RunnerService` from memory."""

    def __init__(self, holding: Holding, drain: Callable[[float], Awaitable[tuple[int, int]]]) -> None:
        self._holding = holding
        self._drain = drain

    async def Attach(  # noqa: N802 -- the contract's name
        self, request_iterator: AsyncIterator[AttachRequest], context: Any
    ) -> AsyncIterator[AttachResponse]:
        """Follow runs until the Invoker closes its side."""
        del context
        followed = _Followed(self._holding)
        reader = asyncio.create_task(followed.read(request_iterator))
        try:
            async for response in followed.responses():
                yield response
            await reader
        finally:
            reader.cancel()
            followed.close()

    async def Drain(  # noqa: N802 -- the contract's name
        self, request: DrainRequest, context: Any
    ) -> DrainResponse:
        """Drain this runner; it takes no more runs afterwards."""
        del context
        if not 0 <= request.grace_ms <= MAX_GRACE_MS:
            raise InvalidField(
                "The grace is out of range.", violations=[Violation("grace_ms", "must be 0 to one day")]
            )
        finished, handed_back = await self._drain((request.grace_ms or 10_000) / 1000)
        return DrainResponse(finished=finished, handed_back=handed_back)


class _Cursor:
    """How far one run has been told on one stream."""

    __slots__ = ("epoch", "memory", "sequence")

    def __init__(self, memory: RunMemory, epoch: int, sequence: int) -> None:
        self.memory = memory
        self.epoch = epoch
        self.sequence = sequence


class _Followed:
    """The runs one stream follows. Nothing is queued for it: it reads each run's memory when it can write."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._cursors: dict[str, _Cursor] = {}
        self._ready: dict[str, None] = {}
        self._answers: list[AttachResponse] = []
        self._arriving: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._bundles = False
        self._ended = False

    async def read(self, requests: AsyncIterator[AttachRequest]) -> None:
        """Do what the Invoker asks."""
        try:
            async for request in requests:
                self._take(request)
        finally:
            self._ended = True
            self._wake.set()

    async def responses(self) -> AsyncIterator[AttachResponse]:
        """Yield what the followed runs tell."""
        while not self._ended:
            await self._wake.wait()
            self._wake.clear()
            while self._answers or self._ready:
                answers, self._answers = self._answers, []
                for answer in answers:
                    yield answer
                ready, self._ready = self._ready, {}
                bundle: AttachResponse | None = None
                size = 0
                for run_id in ready:
                    cursor = self._cursors.get(run_id)
                    response = None if cursor is None else self._next(run_id, cursor)
                    if response is None:
                        continue
                    size += response.ByteSize()
                    if bundle is None:
                        bundle = response
                    else:
                        bundle.others.append(response)
                    if not self._bundles or size >= BUNDLE_BYTES:
                        yield bundle
                        bundle, size = None, 0
                if bundle is not None:
                    yield bundle

    def close(self) -> None:
        """Follow nothing more."""
        for cursor in self._cursors.values():
            cursor.memory.listeners.discard(self._told)
        for task in self._arriving:
            task.cancel()

    def _take(self, request: AttachRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "subscribe":
            after = request.subscribe.after_sequence
            self._bundles = self._bundles or request.subscribe.bundles
            if self._holding.find(request.run_id) is None and not self._holding.ended_here(request.run_id):
                task = asyncio.create_task(self._arrival(request.run_id, after))
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)
            else:
                self._subscribe(request.run_id, after)
        elif kind == "unsubscribe":
            self._leave(request.run_id)
        elif kind == "cancel":
            held = self._holding.find(request.run_id)
            if held is not None:
                held.stop(RunCancelled(request.cancel.reason))
        elif kind == "signal":
            held = self._holding.find(request.run_id)
            if held is not None:  # else its mailbox keeps it
                held.mailbox.arrived(pushed_signal(request.signal))
        else:
            raise InvalidField(
                "The request asks for nothing.", violations=[Violation("message", "must be set")]
            )

    async def _arrival(self, run_id: str, after: int) -> None:
        await self._holding.arrival(run_id, PATIENCE)
        self._subscribe(run_id, after)

    def _subscribe(self, run_id: str, after: int) -> None:
        held = self._holding.find(run_id)
        if held is None:
            gone = AttachGone(ended=self._holding.ended_here(run_id))
            self._answers.append(AttachResponse(run_id=run_id, gone=gone))
            self._wake.set()
            return
        cursor = self._cursors.get(run_id)
        if cursor is not None and cursor.memory is held.memory:
            # Several follow the run over this stream: who is further on drops what it knows.
            after = min(after, cursor.sequence)
        self._leave(run_id)
        self._cursors[run_id] = _Cursor(held.memory, held.invocation.epoch, after)
        held.memory.listeners.add(self._told)
        self._told(held.memory)

    def _leave(self, run_id: str) -> None:
        cursor = self._cursors.pop(run_id, None)
        if cursor is not None:
            cursor.memory.listeners.discard(self._told)

    def _told(self, memory: RunMemory) -> None:
        self._ready[memory.run_id] = None
        self._wake.set()

    def _next(self, run_id: str, cursor: _Cursor) -> AttachResponse | None:
        """Return the next message about a run, and see to it that the one after comes too."""
        memory = cursor.memory
        events = memory.after(cursor.sequence, PAGE, PAGE_BYTES)
        if events is None:
            behind = AttachBehind(first_sequence=memory.first, committed_sequence=memory.committed)
            self._leave(run_id)
            return AttachResponse(run_id=run_id, epoch=cursor.epoch, behind=behind)
        if events:
            cursor.sequence = events[-1].sequence
            self._ready[run_id] = None
            return AttachResponse(run_id=run_id, epoch=cursor.epoch, events=EventBatch(events=events))
        if memory.gone:
            self._leave(run_id)
            return AttachResponse(run_id=run_id, epoch=cursor.epoch, gone=AttachGone(ended=memory.ended))
        return None
