"""What a run has recorded, whole: what code can be held against without executing a step of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.client.link import Link
from holdfast.v1 import checkpoint_service_pb2, checkpoint_service_pb2_grpc

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Past:
    """The past of a run, as `holdfast.agent.replay` takes it.

    `records` are serialized StepRecords in the order they were recorded, also of steps that were begun and
    have no outcome yet; `emitted` says how many of its own events each scope has committed.
    """

    records: tuple[bytes, ...]
    emitted: Mapping[str, int]


async def past_of(stub: checkpoint_service_pb2_grpc.CheckpointServiceStub, link: Link, run_id: str) -> Past:
    """Read a run's past, page by page."""
    request = checkpoint_service_pb2.ListCheckpointsRequest(
        run_id=run_id, page_size=_PAGE, include_records=True
    )
    records: list[bytes] = []
    while True:
        page = await link.call(stub.ListCheckpoints, request)
        records += [checkpoint.record for checkpoint in page.checkpoints]
        if not page.next_page_token:
            return Past(tuple(records), dict(page.emitted))
        request.page_token = page.next_page_token
