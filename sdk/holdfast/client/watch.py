"""A watcher gets a run's events once and in order, over as many connections as that takes."""

import grpc

from holdfast.client.event import Cursor, Update
from holdfast.client.link import Link
from holdfast.client.retry import Lost
from holdfast.client.stream import Stream
from holdfast.client.wire_run import update_of
from holdfast.v1 import invoker_service_pb2, invoker_service_pb2_grpc


class Watch(Stream[Update]):
    """The events of one run, until it has ended: `async with client.watch(run_id) as events: async for …`.

    A run that was retried has ended more than once: its events go on after such an `ended`.
    A connection that breaks is made anew from the cursor; what died with a runner meanwhile comes as
    `Rewound`. Leaving the block ends the call on the server too, however it is left.
    """

    def __init__(
        self,
        stub: invoker_service_pb2_grpc.InvokerServiceStub,
        link: Link,
        run_id: str,
        cursor: Cursor,
        lost: Lost | None = None,
    ) -> None:
        super().__init__(link, lost)
        self.cursor = cursor
        self._stub = stub
        self._run_id = run_id

    @property
    def _complete(self) -> bool:
        return self.cursor.ended

    async def _read(self) -> Update | None:
        """Read one message; None if it says nothing, or nothing more is to come."""
        if self._call is None:
            request = invoker_service_pb2.WatchRunRequest(
                run_id=self._run_id, after_sequence=self.cursor.sequence, after_epoch=self.cursor.epoch
            )
            self._call = self._stub.WatchRun(request, metadata=self._link.metadata)
        message = await self._call.read()
        if message is grpc.aio.EOF:
            self._closed = True
            return None
        self._repetition.forget()
        update = update_of(message)
        if update is not None:
            self.cursor.move(update)
        return update
