"""The way of a batch's items to the Invoker: goes on where it broke off, and hears why it is refused."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar

import grpc

from holdfast.client.batch import Batch, BatchInput, BatchSpec, BatchStatus
from holdfast.client.link import Link
from holdfast.client.retry import Repetition
from holdfast.client.wire_batch import batch_of, chunks, spec_message
from holdfast.client.wire_status import error_of
from holdfast.v1 import batch_service_pb2 as pb
from holdfast.v1 import batch_service_pb2_grpc

_STREAM_S: Final = 600.0  # of one stream; a longer upload goes on over the next
_OWN: Final = "Internal error from Core"  # what gRPC makes of a write to a call that is over

T = TypeVar("T")


class BatchUpload:
    """Sends a batch whole, over as many streams as that takes."""

    def __init__(self, stub: batch_service_pb2_grpc.BatchServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def create(self, spec: BatchSpec, items: Iterable[BatchInput] | None) -> Batch:
        """Make the batch, or find it by its key, and send the items that are not there yet.

        With `items` None they come from its source. Raises `HoldfastError`, and what iterating the items
        raises.
        """
        try:
            made = await self._sent([pb.CreateBatchRequest(spec=spec_message(spec))])
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from failure
        batch = batch_of(made.batch)
        if items is None or batch.status is not BatchStatus.UPLOADING:
            return batch
        return await self.go_on(batch.batch_id, items, made.next_offset)

    async def go_on(self, batch_id: str, items: Iterable[BatchInput], offset: int | None = None) -> Batch:
        """Send the items from `offset` on, by default from where the upload is."""
        repetition = Repetition(self._link.reconnects)
        while True:
            if offset is None:
                offset = await self._uploaded(batch_id)
            try:
                return batch_of((await self._sent(_messages(batch_id, items, offset))).batch)
            except grpc.aio.AioRpcError as failure:
                await repetition.pause(error_of(failure))
                offset = None

    async def _uploaded(self, batch_id: str) -> int:
        response = await self._link.call(self._stub.GetBatch, pb.GetBatchRequest(batch_id=batch_id))
        return batch_of(response.batch).uploaded_items

    async def _sent(self, messages: Iterable[pb.CreateBatchRequest]) -> pb.CreateBatchResponse:
        broken: list[Exception] = []
        call: Any = self._stub.CreateBatch(
            _remembering(messages, broken), metadata=self._link.metadata, timeout=_STREAM_S
        )
        ends = _Ends(call)
        try:
            response: pb.CreateBatchResponse = await call
        except grpc.aio.AioRpcError as failure:
            if broken:
                raise broken[0] from failure
            raise ends.of_server(failure) from failure
        except asyncio.CancelledError as failure:
            if broken:  # gRPC cancels the call of an iterator that raises, and says no more
                raise broken[0] from failure
            raise
        return response


class _Ends:
    """Each end of a call, as gRPC tells it: a write that fails then is put over what the server has said."""

    def __init__(self, call: Any) -> None:
        self._ends: list[grpc.aio.AioRpcError] = []
        call.add_done_callback(self._note)

    def of_server(self, failure: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return what the server said, or `failure` if it has said nothing else."""
        return next((end for end in self._ends if end.details() != _OWN), failure)

    def _note(self, call: Any) -> None:
        end = grpc.aio.AioRpcError(
            _at_once(call.code()),
            grpc.aio.Metadata(),
            _at_once(call.trailing_metadata()),
            details=_at_once(call.details()),
        )
        self._ends.append(end)


def _at_once(known: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing: a call that is over knows its end."""
    try:
        known.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("A call that is over does not know its end.")


def _remembering(
    messages: Iterable[pb.CreateBatchRequest], broken: list[Exception]
) -> Iterator[pb.CreateBatchRequest]:
    """Yield messages, and keep what the caller's items raised."""
    try:
        yield from messages
    except Exception as error:
        broken.append(error)
        raise


def _messages(batch_id: str, items: Iterable[BatchInput], offset: int) -> Iterator[pb.CreateBatchRequest]:
    yield pb.CreateBatchRequest(resume_batch_id=batch_id)
    count = offset
    for chunk in chunks(islice(items, offset, None), offset):
        count = chunk.offset + len(chunk.items)
        yield pb.CreateBatchRequest(chunk=chunk)
    yield pb.CreateBatchRequest(complete_count=count)
