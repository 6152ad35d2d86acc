"""The calls about batches, which the Invoker serves."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import grpc

from holdfast.client.batch import (
    Batch,
    BatchInput,
    BatchItem,
    BatchItemStatus,
    BatchProgress,
    BatchSpec,
    BatchStatus,
)
from holdfast.client.link import Link
from holdfast.client.retry import Repetition
from holdfast.client.stream import Stream
from holdfast.client.wire_batch import batch_of, chunks, filter_message, item_of, progress_of, spec_message
from holdfast.client.wire_status import error_of
from holdfast.client.wire_value import duration_of
from holdfast.v1 import batch_pb2, batch_service_pb2_grpc
from holdfast.v1 import batch_service_pb2 as pb

_UPLOAD_S = 600.0  # of one stream; a longer upload goes on over the next


class BatchWatch(Stream[tuple[Batch, BatchProgress]]):
    """How far a batch is, whole each time, over as many connections as that takes; ends with the batch."""

    def __init__(
        self, stub: batch_service_pb2_grpc.BatchServiceStub, link: Link, request: pb.WatchBatchRequest
    ) -> None:
        super().__init__(link, None)
        self._stub = stub
        self._request = request

    async def _read(self) -> tuple[Batch, BatchProgress] | None:
        if self._call is None:
            self._call = self._stub.WatchBatch(self._request, metadata=self._link.metadata)
        message = await self._call.read()
        if message is grpc.aio.EOF:
            self._closed = True
            return None
        self._repetition.forget()
        return batch_of(message.batch), progress_of(message.progress)


class Batches:
    """Many items over one intent: `client.batches`."""

    def __init__(self, stub: batch_service_pb2_grpc.BatchServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def create(self, spec: BatchSpec, items: Iterable[BatchInput], *, batch_id: str = "") -> Batch:
        """Send a batch with all its items; `batch_id` goes on with one whose upload broke off.

        `items` can be iterated again, as a list can: after a break, and for a batch that is there already,
        those that are stored are passed over. Without an idempotency key in the spec a break before the
        answer raises. Raises `HoldfastError`, and what iterating the items raises.
        """
        offset = 0
        repetition = Repetition(self._link.reconnects)
        if not batch_id:
            made = await self._upload([pb.CreateBatchRequest(spec=spec_message(spec))])
            batch_id, offset = made.batch.batch_id, made.next_offset
            if batch_of(made.batch).status is not BatchStatus.UPLOADING:
                return batch_of(made.batch)
        else:
            offset = (await self.get(batch_id))[0].uploaded_items
        while True:
            try:
                made = await self._upload(_messages(batch_id, items, offset))
            except grpc.aio.AioRpcError as failure:
                await repetition.pause(error_of(failure))
                offset = (await self.get(batch_id))[0].uploaded_items
            else:
                return batch_of(made.batch)

    async def _upload(self, messages: Iterable[pb.CreateBatchRequest]) -> pb.CreateBatchResponse:
        first = isinstance(messages, list)
        broken: list[Exception] = []
        call: Any = self._stub.CreateBatch(
            _remembering(messages, broken), metadata=self._link.metadata, timeout=_UPLOAD_S
        )
        try:
            response: pb.CreateBatchResponse = await call
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
            if broken:  # gRPC cancels the call of an iterator that raises, and says no more
                raise broken[0] from failure
            if first and isinstance(failure, grpc.aio.AioRpcError):
                raise error_of(failure) from failure
            raise
        return response

    async def start(self, batch_id: str) -> Batch:
        """Start a batch whose items are all here. Raises `BatchNotReady`, `BatchNotFound`."""
        response = await self._link.call(self._stub.StartBatch, pb.StartBatchRequest(batch_id=batch_id))
        return batch_of(response.batch)

    async def get(self, batch_id: str) -> tuple[Batch, BatchProgress]:
        """Return a batch and how far it is. Raises `BatchNotFound`."""
        response = await self._link.call(self._stub.GetBatch, pb.GetBatchRequest(batch_id=batch_id))
        return batch_of(response.batch), progress_of(response.progress)

    async def list(
        self,
        *,
        statuses: Iterable[BatchStatus] = (),
        intent: str = "",
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Batch]:
        """Yield batches, the newest first, page by page."""
        request = pb.ListBatchesRequest(
            statuses=[batch_pb2.BatchStatus.ValueType(status) for status in statuses],
            intent=intent,
            labels=labels or {},
            page_size=page_size,
        )
        while True:
            page = await self._link.call(self._stub.ListBatches, request)
            for message in page.batches:
                yield batch_of(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def items(
        self,
        batch_id: str,
        *,
        statuses: Iterable[BatchItemStatus] = (),
        label: str = "",
        failure_reason: str = "",
        keys: Iterable[str] = (),
        page_size: int = 100,
    ) -> AsyncIterator[BatchItem]:
        """Yield items in order, page by page. Raises `BatchNotFound`."""
        which = filter_message(statuses, label, failure_reason, keys)
        request = pb.ListBatchItemsRequest(batch_id=batch_id, filter=which, page_size=page_size)
        while True:
            page = await self._link.call(self._stub.ListBatchItems, request)
            for message in page.items:
                yield item_of(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, batch_id: str, *, interval: float = 1.0) -> BatchWatch:
        """Follow a batch, at most one message each `interval` seconds, until it has ended."""
        request = pb.WatchBatchRequest(batch_id=batch_id, min_interval=duration_of(interval))
        return BatchWatch(self._stub, self._link, request)

    async def pause(self, batch_id: str, reason: str = "") -> Batch:
        """Start no further items."""
        request = pb.PauseBatchRequest(batch_id=batch_id, reason=reason)
        return batch_of((await self._link.call(self._stub.PauseBatch, request)).batch)

    async def resume(self, batch_id: str) -> Batch:
        """Go on where a batch was paused; failures until now count no longer."""
        request = pb.ResumeBatchRequest(batch_id=batch_id)
        return batch_of((await self._link.call(self._stub.ResumeBatch, request)).batch)

    async def cancel(self, batch_id: str, reason: str = "") -> Batch:
        """End a batch: what waits is not run, what runs is cancelled."""
        request = pb.CancelBatchRequest(batch_id=batch_id, reason=reason)
        return batch_of((await self._link.call(self._stub.CancelBatch, request)).batch)

    async def update(
        self, batch_id: str, *, max_parallelism: int | None = None, priority: int | None = None
    ) -> Batch:
        """Change what is given, for the items started next."""
        request = pb.UpdateBatchRequest(batch_id=batch_id, max_parallelism=max_parallelism, priority=priority)
        return batch_of((await self._link.call(self._stub.UpdateBatch, request)).batch)

    async def retry(
        self, batch_id: str, *, failure_reason: str = "", keys: Iterable[str] = (), dry_run: bool = False
    ) -> tuple[Batch, int]:
        """Run skipped items again; return how many."""
        which = filter_message(failure_reason=failure_reason, keys=keys)
        request = pb.RetryBatchItemsRequest(batch_id=batch_id, filter=which, dry_run=dry_run)
        response = await self._link.call(self._stub.RetryBatchItems, request)
        return batch_of(response.batch), response.item_count

    async def export(
        self,
        batch_id: str,
        *,
        form: Literal["jsonl", "csv"] = "jsonl",
        statuses: Iterable[BatchItemStatus] = (),
    ) -> AsyncIterator[bytes]:
        """Yield a file of the items, part by part, each of whole lines; a break is gone on from."""
        request = pb.ExportBatchRequest(
            batch_id=batch_id,
            format=pb.EXPORT_FORMAT_CSV if form == "csv" else pb.EXPORT_FORMAT_JSONL,
            filter=filter_message(statuses),
        )
        repetition = Repetition(self._link.reconnects)
        while True:
            call: Any = self._stub.ExportBatch(request, metadata=self._link.metadata)
            try:
                while (part := await call.read()) is not grpc.aio.EOF:
                    repetition.forget()
                    yield part.data
                    request.after_index = part.last_index
            except grpc.aio.AioRpcError as failure:
                await repetition.pause(error_of(failure))
            else:
                return
            finally:
                call.cancel()


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
