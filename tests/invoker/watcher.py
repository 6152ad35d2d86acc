"""A client that keeps a run's transcript as the contract says: append events, and on Rewound drop."""

import asyncio
from typing import Any

import grpc

from holdfast.v1 import transcript_pb2
from tests.invoker.stand import Stubs, pb
from tests.kit.until import until


class Watcher:
    """Follows a run from one Invoker or another, reconnecting from its cursor."""

    def __init__(self, stubs: Stubs, run_id: str) -> None:
        self.stubs = stubs
        self.run_id = run_id
        self.events: list[transcript_pb2.RunEvent] = []
        self.rewound = 0
        self.ended = False
        self._call: Any = None
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while not self.ended:
            self._call = self.stubs.invoker.WatchRun(
                pb.WatchRunRequest(
                    run_id=self.run_id,
                    after_sequence=len(self.events),
                    after_epoch=self.events[-1].epoch if self.events else 0,
                )
            )
            try:
                while (update := await self._call.read()) is not grpc.aio.EOF:
                    self.apply(update)
                self.ended = True
            except asyncio.CancelledError:
                if not self._call.cancelled():
                    raise
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}:
                    raise

    def apply(self, update: Any) -> None:
        """Apply one message."""
        if update.WhichOneof("update") == "rewound":
            assert update.rewound.to_sequence < len(self.events)
            del self.events[update.rewound.to_sequence :]
            self.rewound += 1
            return
        assert update.event.sequence == len(self.events) + 1
        assert not self.events or update.event.epoch >= self.events[-1].epoch
        self.events.append(update.event)

    def reconnect(self, stubs: Stubs | None = None) -> None:
        """Lose the stream and follow on, possibly elsewhere."""
        self.stubs = stubs or self.stubs
        if self._call is not None:
            self._call.cancel()

    def said(self) -> list[str]:
        """Return what the agent has said."""
        return [event.said.text for event in self.events if event.HasField("said")]

    async def heard(self, text: str) -> None:
        """Wait until the agent has said something."""
        await until(lambda: text in self.said())

    async def finished(self) -> list[transcript_pb2.RunEvent]:
        """Wait for the end, and return the transcript."""
        async with asyncio.timeout(15):
            await self._task
        return self.events
