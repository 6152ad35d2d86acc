"""An inbox gets every approval that waits and then each change, over as many connections as that takes."""

import grpc

from holdfast.client.approval_value import Approval, approval_of
from holdfast.client.link import Link, Metadata
from holdfast.client.retry import Lost
from holdfast.client.stream import Stream
from holdfast.v1 import approval_service_pb2, approval_service_pb2_grpc


class Inbox(Stream[Approval]):
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
        super().__init__(link, lost)
        self.cursor = request.cursor
        self.caught_up = False
        self._stub = stub
        self._request = request
        self._who = who

    async def _read(self) -> Approval | None:
        if self._call is None:
            self._request.cursor = self.cursor
            self._call = self._stub.WatchApprovals(self._request, metadata=(*self._link.metadata, *self._who))
        message = await self._call.read()
        if message is grpc.aio.EOF:
            self._closed = True
            return None
        self._repetition.forget()
        self.cursor = message.cursor
        self.caught_up = self.caught_up or message.caught_up
        return approval_of(message.approval) if message.HasField("approval") else None
