"""Starts and stops children at the Invoker, whichever of its processes serves."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import grpc

from holdfast.agent import Permanent
from holdfast.kit.rpc.status import PASSING, reason_of
from holdfast.kit.rpc.tenant import KEY
from holdfast.kit.telemetry.logs import logger
from holdfast.runner.capability import shown
from holdfast.runner.way import OPEN, Way
from holdfast.v1.invoker_service_pb2 import CancelRunRequest, InvokeRequest, InvokeResponse
from holdfast.v1.invoker_service_pb2_grpc import InvokerServiceStub

PATIENCE: Final = 10.0  # seconds for one try
PAUSE: Final = 0.2
_WAITS: Final = ("QUEUE_FULL", "RATE_LIMITED", "TOO_MANY_CALLS")
_log: Final = logger("children")

T = TypeVar("T")


class InvokerChildren:
    """The way to the Invoker. A repeated call finds the child by its key."""

    def __init__(self, addresses: Sequence[str], way: Way = OPEN) -> None:
        self._proof = way.proof
        self._channels = way.channels(addresses)
        self._current = 0

    async def invoke(self, asked: InvokeRequest) -> InvokeResponse:
        """Start a child, or find it; waits while the service is away, or the tenant's queue is full.

        Raises `Permanent` for any other refusal.
        """
        metadata = ((KEY, asked.caller.tenant), *shown())

        async def once(stub: InvokerServiceStub) -> InvokeResponse:
            return await stub.Invoke(asked, timeout=PATIENCE, metadata=(*self._proof.metadata(), *metadata))

        return await self._repeated(once, asked.parent.run_id)

    async def cancel(self, tenant: str, run_id: str, reason: str) -> None:
        """Ask a child to stop; waits while the service is away. Raises `Permanent` for a refusal."""
        asked = CancelRunRequest(run_id=run_id, reason=reason)
        metadata = ((KEY, tenant), *shown())

        async def once(stub: InvokerServiceStub) -> None:
            await stub.CancelRun(asked, timeout=PATIENCE, metadata=(*self._proof.metadata(), *metadata))

        await self._repeated(once, run_id)

    async def close(self) -> None:
        """Close the channels."""
        await self._channels.close()

    async def _repeated(self, once: Callable[[InvokerServiceStub], Awaitable[T]], run_id: str) -> T:
        while True:
            stub = InvokerServiceStub(self._channels[self._current])
            try:
                return await once(stub)
            except grpc.aio.AioRpcError as error:
                reason = reason_of(error)
                if error.code() in PASSING:
                    self._current = (self._current + 1) % len(self._channels)
                elif reason not in _WAITS:
                    raise Permanent(error.details() or "", reason=reason) from error
                _log.warning("call to the Invoker repeated", run_id=run_id, code=error.code().name)
            await asyncio.sleep(PAUSE)
