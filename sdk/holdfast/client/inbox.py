"""An inbox gets every approval that waits and then each change, over as many connections as that takes."""

from types import TracebackType
from typing import Any, Self

import grpc

from holdfast.client.approval_value import Approval, approval_of
from holdfast.client.link import Link, Metadata
from holdfast.client.retry import Lost, Repetition
from holdfast.client.wire_status import error_of
from holdfast.v1 import approval_service_pb2, approval_service_pb2_grpc


class Inbox:
    """Approvals as they now stand: `async with client.approvals(person).watch() as inbox: async for …`.

    Each replaces what came of it before. One that leaves the filter, because it was decided or one has voted,
    comes as it is then. A connection that breaks is made anew from `cursor`, by which a later inbox goes on,
    too; a break before all that waited has come begins again, so an approval may come twice. `caught_up` is
    true once all that waited has come. Leaving the block ends the stream on the server too.
    """

    def __init__(
        self,
        stub: approval_service_pb2_grpc.ApprovalServiceStub,
        link: Link,
        request: approval_service_pb2.WatchApprovalsRequest,
        who: Metadata,
        lost: Lost | None = None,
    ) -> None:
        self.cursor = request.cursor
        self.caught_up = False
        self._stub = stub
        self._link = link
        self._request = request
        self._who = who
        self._call: Any = None
        self._repetition = Repetition(link.reconnects, lost)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; repeatable."""
        self._closed = True
        self._hang_up()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Approval:
        """Return the next approval. Raises `HoldfastError` when no server answers for long."""
        while not self._closed:
            try:
                message = await self._read()
            except grpc.aio.AioRpcError as failure:
                self._hang_up()
                await self._repetition.pause(error_of(failure))
                continue
            except BaseException:
                self._hang_up()
                raise
            if message is grpc.aio.EOF:
                self._closed = True
                break
            self._repetition.forget()
            self.cursor = message.cursor
            self.caught_up = self.caught_up or message.caught_up
            if message.HasField("approval"):
                return approval_of(message.approval)
        self.close()
        raise StopAsyncIteration

    async def _read(self) -> Any:
        if self._call is None:
            self._request.cursor = self.cursor
            self._call = self._stub.WatchApprovals(self._request, metadata=(*self._link.metadata, *self._who))
        return await self._call.read()

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
