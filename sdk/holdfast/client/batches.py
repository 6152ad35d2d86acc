"""The calls about batches, which the Invoker serves."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Literal

import grpc

from holdfast.client.approval_value import NOBODY, Person
from holdfast.client.batch import (
    ApplyTarget,
    Batch,
    BatchInput,
    BatchItem,
    BatchItemStatus,
    BatchProgress,
    BatchSpec,
    BatchStatus,
    ItemReview,
    Reviewed,
    ReviewPolicy,
    Stratum,
)
from holdfast.client.batch_upload import BatchUpload
from holdfast.client.link import Link
from holdfast.client.retry import Repetition
from holdfast.client.stream import Stream
from holdfast.client.wire_batch import (
    batch_of,
    filter_message,
    item_of,
    progress_of,
    reviewed_of,
    stratum_of,
)
from holdfast.client.wire_batch_review import (
    policy_message,
    review_message,
    strata_message,
    target_message,
    verdict,
)
from holdfast.client.wire_status import error_of
from holdfast.client.wire_value import duration_of
from holdfast.v1 import batch_pb2, batch_service_pb2_grpc
from holdfast.v1 import batch_service_pb2 as pb


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

    async def create(
        self, spec: BatchSpec, items: Iterable[BatchInput] | None = None, *, batch_id: str = ""
    ) -> Batch:
        """Send a batch with all its items; `batch_id` goes on with one whose upload broke off.

        `items` can be iterated again, as a list can: after a break, and for a batch that is there already,
        those that are stored are passed over. Without an idempotency key in the spec a break before the
        answer raises. With a source there are none to send, and the batch is answered while they are read.
        Raises `HoldfastError`, and what iterating the items raises.
        """
        if (items is None) == (spec.source is None):
            raise ValueError("The items of a batch are sent, or come from its source.")
        upload = BatchUpload(self._stub, self._link)
        return await (upload.go_on(batch_id, items or ()) if batch_id else upload.create(spec, items))

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
        max_confidence: float = 0.0,
        changed: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[BatchItem]:
        """Yield items in order, page by page; `changed` those that differ from what is there.

        Raises `BatchNotFound`.
        """
        which = filter_message(
            statuses, label, failure_reason, keys, max_confidence=max_confidence, changed=changed
        )
        request = pb.ListBatchItemsRequest(batch_id=batch_id, filter=which, page_size=page_size)
        while True:
            page = await self._link.call(self._stub.ListBatchItems, request)
            for message in page.items:
                yield item_of(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, batch_id: str, *, interval: float = 1.0) -> BatchWatch:
        """Follow a batch until nothing of it is on its way, at most one message each `interval` seconds."""
        request = pb.WatchBatchRequest(batch_id=batch_id, min_interval=duration_of(interval))
        return BatchWatch(self._stub, self._link, request)

    async def sample(
        self,
        batch_id: str,
        size: int = 0,
        *,
        seed: int = 0,
        by_label: bool = False,
        confidence_bounds: Iterable[float] = (),
        cost_bounds: Iterable[float] = (),
        token_bounds: Iterable[int] = (),
        equal: bool = False,
        unjudged_only: bool = False,
    ) -> tuple[Stratum, ...]:
        """Draw staged items to look at, 200 unless told, spread over strata; the same for the same seed.

        A stratum gets its share, at least one; `equal` gives all the same. `cost_bounds` are in the currency
        in which the operator has told the price of tokens. Raises `BatchNotFound`, and `InvalidField` for
        costs where no price was told.
        """
        strata = strata_message(
            by_label=by_label,
            confidence_bounds=confidence_bounds,
            cost_bounds=cost_bounds,
            token_bounds=token_bounds,
            equal=equal,
        )
        request = pb.SampleBatchRequest(
            batch_id=batch_id, size=size, seed=seed, strata=strata, unjudged_only=unjudged_only
        )
        response = await self._link.call(self._stub.SampleBatch, request)
        return tuple(stratum_of(stratum) for stratum in response.strata)

    async def review(
        self,
        batch_id: str,
        reviews: Iterable[ItemReview] = (),
        *,
        rest: bool | None = None,
        rest_reason: str = "",
        reviewer: Person = NOBODY,
    ) -> Reviewed:
        """Accept, reject or edit staged outputs, at most 1,000 a call; `rest` is said of those unjudged.

        The last word on an item holds until it is being applied. `reviewer` counts where servers take the
        caller's word. Raises `BatchNotFound`, `BatchNotReady`.
        """
        request = pb.ReviewItemsRequest(
            batch_id=batch_id,
            reviews=[review_message(review) for review in reviews],
            rest=verdict(accepted=rest),
            rest_reason=rest_reason,
        )
        return reviewed_of(await self._link.call(self._stub.ReviewItems, request, more=reviewer.metadata))

    async def apply(
        self,
        batch_id: str,
        target: ApplyTarget | None = None,
        *,
        items_per_second: float = 0.0,
        dry_run: bool = False,
    ) -> tuple[Batch, int]:
        """Apply accepted outputs, each once; return the batch and how many. `watch` follows it.

        Without a target the spec's counts. Raises `BatchNotFound`, `BatchNotReady`, `DestinationNotFound`.
        """
        request = pb.ApplyBatchRequest(
            batch_id=batch_id,
            target=None if target is None else target_message(target),
            items_per_second=items_per_second,
            dry_run=dry_run,
        )
        response = await self._link.call(self._stub.ApplyBatch, request)
        return batch_of(response.batch), response.item_count

    async def rollback(
        self,
        batch_id: str,
        reason: str,
        *,
        label: str = "",
        keys: Iterable[str] = (),
        max_confidence: float = 0.0,
        dry_run: bool = False,
    ) -> tuple[Batch, int]:
        """Undo what was applied, the newest first; return the batch and how many. `watch` follows it.

        Raises `BatchNotFound`, `BatchNotReady`.
        """
        which = filter_message(label=label, keys=keys, max_confidence=max_confidence)
        request = pb.RollbackBatchRequest(batch_id=batch_id, reason=reason, filter=which, dry_run=dry_run)
        response = await self._link.call(self._stub.RollbackBatch, request)
        return batch_of(response.batch), response.item_count

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
        self,
        batch_id: str,
        *,
        max_parallelism: int | None = None,
        priority: int | None = None,
        review: ReviewPolicy | None = None,
        apply_items_per_second: float | None = None,
    ) -> Batch:
        """Change what is given, for the items started, judged or applied next."""
        request = pb.UpdateBatchRequest(
            batch_id=batch_id,
            max_parallelism=max_parallelism,
            priority=priority,
            review=None if review is None else policy_message(review),
            apply_items_per_second=apply_items_per_second,
        )
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
