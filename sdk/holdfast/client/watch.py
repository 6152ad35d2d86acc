"""A watcher gets a run's events once and in order, over as many connections as that takes."""

from types import TracebackType
from typing import Any, Self

import grpc

from holdfast.client.event import Cursor, Update
from holdfast.client.link import Link
from holdfast.client.retry import Lost, Repetition
from holdfast.client.wire_run import update_of
from holdfast.client.wire_status import error_of
from holdfast.v1 import invoker_service_pb2, invoker_service_pb2_grpc


class Watch:
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
        self.cursor = cursor
        self._stub = stub
        self._link = link
        self._run_id = run_id
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
        """End the call; repeatable."""
        self._closed = True
        self._hang_up()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Return the next update. Raises `HoldfastError` when no server answers for long."""
        while not self._closed:
            try:
                update = await self._read()
            except grpc.aio.AioRpcError as failure:
                self._hang_up()
                if self.cursor.ended:
                    break  # nothing was missing but the farewell
                await self._repetition.pause(error_of(failure))
                continue
            except BaseException:
                self._hang_up()
                raise
            if update is not None:
                return update
        self.close()
        raise StopAsyncIteration

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

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
