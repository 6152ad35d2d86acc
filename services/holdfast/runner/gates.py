"""Opens gates at the Approval service, whichever of its processes serves."""

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc

from holdfast.agent import Permanent
from holdfast.agent.approval import Opened
from holdfast.kit.rpc.status import PASSING, reason_of
from holdfast.kit.telemetry.logs import logger
from holdfast.runner.capability import shown
from holdfast.runner.way import OPEN, Way
from holdfast.v1.approval_service_pb2 import RequestApprovalRequest
from holdfast.v1.approval_service_pb2_grpc import ApprovalServiceStub

PATIENCE: Final = 10.0  # seconds for one try
PAUSE: Final = 0.2
_log: Final = logger("gate")


class ApprovalGates:
    """The way to the Approval service."""

    def __init__(self, addresses: Sequence[str], way: Way = OPEN) -> None:
        self._proof = way.proof
        self._channels = way.channels(addresses)
        self._current = 0

    async def request(self, asked: RequestApprovalRequest) -> Opened:
        """Open a gate, or find it; waits while the service is away. Raises `Permanent` for a refusal."""
        while True:
            stub = ApprovalServiceStub(self._channels[self._current])
            try:
                opened = await stub.RequestApproval(
                    asked, timeout=PATIENCE, metadata=(*self._proof.metadata(), *shown())
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in PASSING:
                    raise Permanent(error.details() or "", reason=reason_of(error)) from error
                _log.warning("gate not opened", code=error.code().name)
                self._current = (self._current + 1) % len(self._channels)
            else:
                return Opened(opened.approval.approval_id, opened.mailbox_key, opened.reattached)
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Close the channels."""
        await self._channels.close()
