"""Who refuses an upload before reading it is heard, whatever gRPC makes of the writes that fail."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.client import BatchInput, BatchSpec, Client, Invocation, errors
from holdfast.kit.errors import PermissionDenied
from holdfast.kit.rpc.server import Registration, Server
from holdfast.v1 import batch_pb2, batch_service_pb2_grpc
from holdfast.v1 import batch_service_pb2 as pb

BATCH_ID = "0190f3a0-0000-7000-8000-000000000001"
LARGE = "x" * 100_000
TIMES = 200


class Refusing(batch_service_pb2_grpc.BatchServiceServicer):
    """Refuses uploads without a look at what is sent; with `first`, what comes after the first message."""

    def __init__(self) -> None:
        self.first = False

    async def CreateBatch(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        del context
        if self.first:
            async for _ in request_iterator:
                break
        raise PermissionDenied("You may not.")

    async def GetBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        return pb.GetBatchResponse(batch=batch_pb2.Batch(batch_id=BATCH_ID))


@pytest.fixture
async def refusing() -> AsyncIterator[tuple[Refusing, str]]:
    servicer = Refusing()  # type: ignore[abstract]  # the other methods are UNIMPLEMENTED
    add: Any = batch_service_pb2_grpc.add_BatchServiceServicer_to_server
    server = Server([Registration(add, servicer, "holdfast.v1.BatchService")], "127.0.0.1:0")
    await server.start()
    yield servicer, server.address
    await server.stop(0)


@pytest.mark.parametrize("first", [False, True])
async def test_an_upload_that_is_refused_raises_what_the_server_said(
    refusing: tuple[Refusing, str],
    first: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    servicer, address = refusing
    servicer.first = first
    items = [BatchInput({"text": LARGE}) for _ in range(20)]
    spec = BatchSpec(Invocation("double"))
    async with Client(address) as client:
        for _ in range(TIMES):
            with pytest.raises(errors.PermissionDenied):
                await client.batches.create(spec, items)
            with pytest.raises(errors.PermissionDenied):
                await client.batches.create(spec, items, batch_id=BATCH_ID)
