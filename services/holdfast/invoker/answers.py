"""What a conversation answers to its client's words waits here to be told: a few, and no more.

Whoever adds one waits for room: a client that does not read its answers is not read further.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from holdfast.invoker.signal import Sent
from holdfast.kit.errors import Fault
from holdfast.v1 import invoker_service_pb2 as pb

MOST: Final = 16


class Answers:
    """Answers in the order of what they answer."""

    def __init__(self) -> None:
        self.added: Callable[[], None] = lambda: None
        """Called after each that is added."""
        self._waiting: deque[pb.ConverseResponse] = deque()
        self._added = asyncio.Event()
        self._room = asyncio.Event()
        self._waiter: asyncio.Task[bool] | None = None

    async def put(self, answer: pb.ConverseResponse) -> None:
        """Add an answer once there is room."""
        while len(self._waiting) >= MOST:
            self._room.clear()
            await self._room.wait()
        self._waiting.append(answer)
        self._added.set()
        self.added()

    def take(self) -> list[pb.ConverseResponse]:
        """Return what is to be told now."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._added.clear()
        self._room.set()
        return taken

    def waiter(self) -> "asyncio.Task[bool]":
        """Return a task that is done when there is something to be told; the same until it is."""
        if self._waiter is None or (self._waiter.done() and not self._waiting):
            self._waiter = asyncio.create_task(self._added.wait(), name="converse-answers")
        return self._waiter

    def close(self) -> None:
        """Tell nothing more."""
        if self._waiter is not None:
            self._waiter.cancel()


def signalled(run_id: str, signal_id: str) -> pb.ConverseResponse:
    """Say that an input is durable."""
    return pb.ConverseResponse(signalled=pb.ConverseSignalled(run_id=run_id, signal_id=signal_id))


def refused(run_id: str, sent: Sent, fault: Fault) -> pb.ConverseResponse:
    """Say that an input was refused, and why."""
    return pb.ConverseResponse(
        refused=pb.ConverseRefused(
            run_id=run_id,
            signal_id=sent.signal_id,
            reason=fault.reason,
            message=fault.message,
            metadata=fault.facts,
        )
    )
