"""Serves `BatchService`: many items taken in, run, watched, held and let go."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from holdfast.invoker.batch_export import export
from holdfast.invoker.batch_message import batch_message, item_message, read_filter
from holdfast.invoker.batch_policy import allow_policy, check_rate, check_review
from holdfast.invoker.batch_progress import Progress
from holdfast.invoker.batch_request import (
    batch_id_of,
    number_of,
    refuse,
    review_of,
    text_of,
    tolerance_of,
)
from holdfast.invoker.batch_reviewing import Reviewing
from holdfast.invoker.batch_spec import check_parallelism
from holdfast.invoker.batches import Batches
from holdfast.invoker.envelope import Violations
from holdfast.invoker.parts import Parts
from holdfast.kit.errors import StreamProtocol
from holdfast.kit.rpc.page import size_of, token_of
from holdfast.kit.rpc.person import caller
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.kit.rpc.violation import Violations as PageViolations
from holdfast.ledger import batch as ledger_batch
from holdfast.ledger import batch_resend, batch_retry, batch_update, batch_view
from holdfast.ledger.batch_view import BatchFilter, BatchView
from holdfast.ledger.domain.batch import BatchStatus
from holdfast.v1 import batch_pb2, batch_service_pb2_grpc
from holdfast.v1 import batch_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_BYTES: Final = 3 * 1024 * 1024
_LEAST_S: Final = 0.1
_MOST_S: Final = 60.0


class BatchServicer(batch_service_pb2_grpc.BatchServiceServicer):
    """Batches of the caller's tenant."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db
        self._driver = parts.batches
        self._batches = Batches(parts)
        self._intents = parts.intents
        self._applier = parts.applier
        self._token_price = parts.settings.token_price
        self._reviewing = Reviewing(parts.db, parts.intents, parts.applier, token_price=self._token_price)
        self._progress = Progress(parts.db, token_price=self._token_price)

    async def CreateBatch(  # noqa: N802 - the contract's name
        self,
        request_iterator: AsyncIterator[pb.CreateBatchRequest],
        _context: Context,
    ) -> pb.CreateBatchResponse:
        """Make a batch, or go on with one, and store its items as they come."""
        tenant = current_tenant()
        batch: BatchView | None = None
        reattached = complete = False
        async for request in request_iterator:
            kind = request.WhichOneof("message")
            if complete:
                raise StreamProtocol("Nothing follows complete_count.")
            if batch is None:
                batch, reattached = await self._opened(tenant, kind, request)
            elif kind == "chunk":
                if request.chunk.offset < 0:
                    refuse("chunk.offset", "must not be negative")
                await self._batches.append(batch, request.chunk.offset, list(request.chunk.items))
            elif kind == "complete_count":
                await self._batches.complete(batch, request.complete_count)
                complete = True
            else:
                raise StreamProtocol("After the first message come chunks, then complete_count.")
        if batch is None:
            raise StreamProtocol("The first message is spec or resume_batch_id.")
        batch = await self._batches.get(tenant, batch.batch_id)
        return pb.CreateBatchResponse(
            batch=batch_message(batch), next_offset=batch.uploaded, reattached=reattached
        )

    async def _opened(
        self, tenant: str, kind: str | None, request: pb.CreateBatchRequest
    ) -> tuple[BatchView, bool]:
        if kind == "spec":
            made = await self._batches.create(request.spec, tenant=tenant)
            return made.batch, made.reattached
        if kind == "resume_batch_id":
            return await self._batches.get(
                tenant, batch_id_of(request.resume_batch_id, "resume_batch_id")
            ), True
        raise StreamProtocol("The first message is spec or resume_batch_id.")

    async def StartBatch(  # noqa: N802
        self,
        request: pb.StartBatchRequest,
        _context: Context,
    ) -> pb.StartBatchResponse:
        """Start a batch whose items are all here."""
        started = await self._batches.start(current_tenant(), batch_id_of(request.batch_id))
        return pb.StartBatchResponse(batch=batch_message(started))

    async def GetBatch(  # noqa: N802
        self,
        request: pb.GetBatchRequest,
        _context: Context,
    ) -> pb.GetBatchResponse:
        """Read a batch and how far it is."""
        read = (await self._progress.now(current_tenant(), batch_id_of(request.batch_id))).message
        return pb.GetBatchResponse(batch=read.batch, progress=read.progress)

    async def ListBatches(  # noqa: N802
        self,
        request: pb.ListBatchesRequest,
        _context: Context,
    ) -> pb.ListBatchesResponse:
        """List the tenant's batches, the newest first."""
        wrong = PageViolations()
        limit = size_of(wrong, request.page_size)
        cursor = number_of(wrong, "batches", request.page_token)
        for at, status in enumerate(request.statuses):
            if int(status) not in BatchStatus.__members__.values():
                wrong.add(f"statuses[{at}]", "is not a status of a batch")
        wrong.text("intent", request.intent, required=False)
        wrong.check()
        which = BatchFilter(
            tuple(BatchStatus(status) for status in request.statuses), request.intent, dict(request.labels)
        )
        async with self._db.connection() as connection:
            views, last = await batch_view.list_batches(
                connection, current_tenant(), which, limit=limit, before=cursor
            )
        token = "" if last is None else token_of("batches", str(last))
        return pb.ListBatchesResponse(batches=map(batch_message, views), next_page_token=token)

    async def ListBatchItems(  # noqa: N802
        self,
        request: pb.ListBatchItemsRequest,
        _context: Context,
    ) -> pb.ListBatchItemsResponse:
        """List items in order."""
        wrong = PageViolations()
        limit = size_of(wrong, request.page_size)
        after = number_of(wrong, "items", request.page_token)
        wrong.check()
        batch_id = batch_id_of(request.batch_id)
        which = read_filter(Violations(), request.filter)
        await self._batches.get(current_tenant(), batch_id)
        async with self._db.connection() as connection:
            views, last = await batch_view.list_items(
                connection, batch_id, which, limit=limit, after=-1 if after is None else after
            )
        items: list[batch_pb2.BatchItem] = []
        size = 0
        for view in views:
            item = item_message(request.batch_id, view, self._token_price)
            size += item.ByteSize()
            if items and size > MAX_PAGE_BYTES:  # the page must arrive; the rest is the next one's
                last = items[-1].index
                break
            items.append(item)
        token = "" if last is None else token_of("items", str(last))
        return pb.ListBatchItemsResponse(items=items, next_page_token=token)

    async def WatchBatch(  # noqa: N802
        self,
        request: pb.WatchBatchRequest,
        _context: Context,
    ) -> AsyncIterator[pb.WatchBatchResponse]:
        """Say how far a batch is, whenever that has changed, until nothing of it is still to arrive."""
        wrong = PageViolations()
        interval = wrong.seconds(
            "min_interval",
            request.min_interval,
            given=request.HasField("min_interval"),
            default=1.0,
            most=_MOST_S,
            least=_LEAST_S,
        )
        wrong.check()
        batch_id, tenant = batch_id_of(request.batch_id), current_tenant()
        last: bytes | None = None
        reading = await self._progress.now(tenant, batch_id)
        while True:
            mark = _mark(reading.message)
            if mark != last:
                yield reading.message
                last = mark
            if reading.over:
                return
            await asyncio.sleep(interval)
            reading = await self._progress.lately(tenant, batch_id, within=interval / 2)

    async def PauseBatch(  # noqa: N802
        self,
        request: pb.PauseBatchRequest,
        _context: Context,
    ) -> pb.PauseBatchResponse:
        """Start no further items."""
        reason = text_of("reason", request.reason)
        batch = await ledger_batch.pause(self._db, current_tenant(), batch_id_of(request.batch_id), reason)
        return pb.PauseBatchResponse(batch=batch_message(batch))

    async def ResumeBatch(  # noqa: N802
        self,
        request: pb.ResumeBatchRequest,
        _context: Context,
    ) -> pb.ResumeBatchResponse:
        """Go on where a batch was paused."""
        tolerance = tolerance_of(request)
        batch = await ledger_batch.resume(
            self._db, current_tenant(), batch_id_of(request.batch_id), tolerance
        )
        self._driver.loop.wake()
        self._applier.loop.wake()
        return pb.ResumeBatchResponse(batch=batch_message(batch))

    async def CancelBatch(  # noqa: N802
        self,
        request: pb.CancelBatchRequest,
        _context: Context,
    ) -> pb.CancelBatchResponse:
        """End a batch."""
        reason = text_of("reason", request.reason)
        batch = await ledger_batch.cancel(self._db, current_tenant(), batch_id_of(request.batch_id), reason)
        self._driver.loop.wake()
        return pb.CancelBatchResponse(batch=batch_message(batch))

    async def RetryBatchItems(  # noqa: N802
        self,
        request: pb.RetryBatchItemsRequest,
        _context: Context,
    ) -> pb.RetryBatchItemsResponse:
        """Run skipped items again, or apply again what could not be applied."""
        wrong = Violations()
        which = request.filter
        if which.statuses or which.label or which.max_confidence:
            wrong.add("filter", "can name keys and a failure_reason: items that failed have nothing else")
        found = read_filter(wrong, which)
        tenant, batch_id = current_tenant(), batch_id_of(request.batch_id)
        applies = batch_resend.applies(await self._batches.get(tenant, batch_id))
        again = batch_resend.apply_again if applies else batch_retry.retry_items
        batch, count = await again(self._db, tenant, batch_id, found, dry_run=request.dry_run)
        self._driver.loop.wake()
        self._applier.loop.wake()
        return pb.RetryBatchItemsResponse(batch=batch_message(batch), item_count=count)

    async def UpdateBatch(  # noqa: N802
        self,
        request: pb.UpdateBatchRequest,
        _context: Context,
    ) -> pb.UpdateBatchResponse:
        """Change a batch while it runs."""
        wrong = Violations()
        if request.HasField("max_parallelism"):
            check_parallelism(wrong, "max_parallelism", request.max_parallelism, least=1)
        if request.HasField("priority") and not 0 <= request.priority <= 9:  # noqa: PLR2004 - the contract's
            wrong.add("priority", "must be from 0 to 9")
        check_review(wrong, "review", request.review)
        check_rate(wrong, "apply_items_per_second", request.apply_items_per_second)
        wrong.settle()
        allow_policy(request.review)
        if request.review.reviewer_intent:
            await self._intents.check(request.review.reviewer_intent)
        batch = await batch_update.update(
            self._db,
            current_tenant(),
            batch_id_of(request.batch_id),
            max_parallelism=request.max_parallelism if request.HasField("max_parallelism") else None,
            priority=request.priority if request.HasField("priority") else None,
            tolerance=tolerance_of(request),
            review=review_of(request),
            apply_per_second=(
                request.apply_items_per_second if request.HasField("apply_items_per_second") else None
            ),
        )
        self._driver.loop.wake()
        self._applier.loop.wake()
        return pb.UpdateBatchResponse(batch=batch_message(batch))

    async def SampleBatch(  # noqa: N802
        self,
        request: pb.SampleBatchRequest,
        _context: Context,
    ) -> pb.SampleBatchResponse:
        """Draw staged items to look at."""
        return await self._reviewing.sample(current_tenant(), request)

    async def ReviewItems(  # noqa: N802
        self,
        request: pb.ReviewItemsRequest,
        context: Context,
    ) -> pb.ReviewItemsResponse:
        """Accept, reject or edit staged outputs."""
        return await self._reviewing.review(current_tenant(), request, caller(context).user)

    async def ApplyBatch(  # noqa: N802
        self,
        request: pb.ApplyBatchRequest,
        _context: Context,
    ) -> pb.ApplyBatchResponse:
        """Apply accepted outputs."""
        return await self._reviewing.apply(current_tenant(), request)

    async def RollbackBatch(  # noqa: N802
        self,
        request: pb.RollbackBatchRequest,
        _context: Context,
    ) -> pb.RollbackBatchResponse:
        """Undo what was applied."""
        return await self._reviewing.roll_back(current_tenant(), request)

    async def ExportBatch(  # noqa: N802
        self,
        request: pb.ExportBatchRequest,
        _context: Context,
    ) -> AsyncIterator[pb.ExportBatchResponse]:
        """Stream the items as a file, page by page."""
        async for part in export(self._db, current_tenant(), request, self._token_price):
            yield part


def _mark(message: pb.WatchBatchResponse) -> bytes:
    """Return what of a message must differ for it to be worth another."""
    shown = pb.WatchBatchResponse()
    shown.CopyFrom(message)
    for passing in ("snapshot_time", "eta_earliest", "eta_latest"):
        shown.progress.ClearField(passing)
    return shown.SerializeToString(deterministic=True)
