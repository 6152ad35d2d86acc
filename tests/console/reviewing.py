"""A batch in review behind the real contract, kept in memory, and the console in front of it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from holdfast.console.app import application
from holdfast.console.settings import ConsoleSettings
from holdfast.kit.errors import NotYetAvailable
from holdfast.kit.rpc.server import Registration, Server
from holdfast.v1 import (
    batch_pb2,
    batch_service_pb2,
    batch_service_pb2_grpc,
    effect_pb2,
    outbox_service_pb2,
    outbox_service_pb2_grpc,
)
from tests.console.agents import EVIL

BATCH_ID = "0190f3a0-0000-7000-8000-00000000000b"
pb: Any = batch_service_pb2
values: Any = batch_pb2


class ReviewedBatches(batch_service_pb2_grpc.BatchServiceServicer):
    """Answers about one batch; `served` is whether this release reviews."""

    def __init__(self) -> None:
        self.served = True
        self.asked: list[Any] = []
        self.judged: dict[int, Any] = {}
        self.target: dict[str, Any] = {}
        """Where the batch itself says that outputs go."""
        self.elsewhere: set[int] = set()
        """Items that are staged and not drawn."""
        self.items = [self._item(index) for index in range(4)]

    def _item(self, index: int) -> Any:
        item = values.BatchItem(batch_id=BATCH_ID, index=index, status=values.BATCH_ITEM_STATUS_STAGED)
        item.input.key = f"key {index} {EVIL}"
        item.input.payload.update({"name": EVIL})
        item.input.current.struct_value.update({"same": 1, "city": "Bonn", EVIL: EVIL})
        item.output.struct_value.update({"same": 1, "city": f"Bern {EVIL}", EVIL: EVIL})
        item.label, item.confidence = EVIL if index % 2 else "plain", 0.25 * index
        return item

    def _progress(self) -> Any:
        accepted = sum(each.verdict == values.REVIEW_VERDICT_ACCEPT for each in self.judged.values())
        counts = {
            values.BATCH_ITEM_STATUS_STAGED: len(self.items) - len(self.judged),
            values.BATCH_ITEM_STATUS_ACCEPTED: accepted,
            values.BATCH_ITEM_STATUS_REJECTED: len(self.judged) - accepted,
        }
        told = [{"status": status, "count": count} for status, count in counts.items() if count]
        return values.BatchProgress(total=len(self.items), counts=told, cost_micros=1_250_000)

    def _batch(self) -> Any:
        spec = {"display_name": f"B {EVIL}", **({"apply": self.target} if self.target else {})}
        return values.Batch(batch_id=BATCH_ID, status=values.BATCH_STATUS_IN_REVIEW, spec=spec)

    def _keep(self, request: Any) -> None:
        if not self.served:
            raise NotYetAvailable("Samples of staged outputs: not served by this release.")
        self.asked.append(request)

    async def GetBatch(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the contract's names
        return pb.GetBatchResponse(batch=self._batch(), progress=self._progress())

    async def SampleBatch(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self._keep(request)
        left_out = self.judged.keys() | self.elsewhere
        staged = [each for each in self.items if each.index not in left_out]
        if not request.strata.by_label:
            strata = [values_of(staged)]
        else:
            labels = dict.fromkeys(each.label for each in staged)
            strata = [values_of([each for each in staged if each.label == label], label) for label in labels]
        return pb.SampleBatchResponse(strata=strata)

    async def ListBatchItems(self, request: Any, _context: Any) -> Any:  # noqa: N802
        keys = set(request.filter.keys)
        return pb.ListBatchItemsResponse(items=[each for each in self.items if each.input.key in keys])

    async def ReviewItems(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self._keep(request)
        self.judged |= {each.index: each for each in request.reviews}
        accepted = sum(each.verdict == values.REVIEW_VERDICT_ACCEPT for each in self.judged.values())
        return pb.ReviewItemsResponse(
            progress=self._progress(), judged=len(self.judged), accepted=accepted, policy_met=accepted > 2
        )

    async def ApplyBatch(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self._keep(request)
        return pb.ApplyBatchResponse(batch=self._batch(), item_count=2)

    async def RollbackBatch(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self._keep(request)
        return pb.RollbackBatchResponse(batch=self._batch(), item_count=1)


def values_of(items: list[Any], label: str = "") -> Any:
    return pb.Stratum(label=label, population=len(items), items=items)


class _Destinations(outbox_service_pb2_grpc.OutboxServiceServicer):
    async def ListDestinations(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return outbox_service_pb2.ListDestinationsResponse(destinations=[effect_pb2.Destination(name="crm")])


@asynccontextmanager
async def console_over(batches: ReviewedBatches) -> AsyncIterator[str]:
    """Serve the console in this process, over these batches alone; yields its URL."""
    registrations = [
        Registration(
            batch_service_pb2_grpc.add_BatchServiceServicer_to_server, batches, "holdfast.v1.BatchService"
        ),
        Registration(
            outbox_service_pb2_grpc.add_OutboxServiceServicer_to_server,
            _Destinations(),  # type: ignore[abstract]  # the other methods are UNIMPLEMENTED
            "holdfast.v1.OutboxService",
        ),
    ]
    async with console_before(registrations) as url:
        yield url


@asynccontextmanager
async def console_before(registrations: list[Registration], **told: Any) -> AsyncIterator[str]:
    """Serve the console in this process, before these services; `told` are its settings. Yields its URL."""
    server = Server(registrations, "127.0.0.1:0")
    await server.start()
    stopping = asyncio.Event()
    settings = ConsoleSettings(invoker_address=server.address, dispatcher_address=server.address, **told)
    config = uvicorn.Config(application(settings, stopping), log_config=None, access_log=False)
    web = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(web.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopping.set()
            web.should_exit = True
            await serving
            await server.stop(0)
