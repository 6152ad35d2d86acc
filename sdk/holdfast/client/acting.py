"""One thing done with many runs, and how far it has come."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict, Unpack

import grpc

from holdfast.client.link import Link
from holdfast.client.number import RunStatus
from holdfast.client.wire_status import error_of
from holdfast.client.wire_value import stamp_of
from holdfast.v1 import invoker_service_pb2, run_pb2
from holdfast.v1.invoker_service_pb2_grpc import InvokerServiceStub

Action = Literal["cancel", "retry", "pause", "resume"]


class Which(TypedDict, total=False):
    """Which runs; what is left out does not filter."""

    statuses: Iterable[RunStatus]
    intent: str
    created_from: datetime | None
    created_before: datetime | None
    session_id: str
    correlation_id: str
    labels: Mapping[str, str] | None
    parent_run_id: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A run that was passed over: why, as errors have it."""

    run_id: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Acted:
    """How far it has come: counts of all so far, and the runs since the last answer."""

    matched: int
    done: int
    skipped: int
    run_ids: tuple[str, ...]
    skipped_runs: tuple[Skipped, ...]
    finished: bool


def which_message(**which: Unpack[Which]) -> invoker_service_pb2.ListRunsRequest:
    """Return a filter as the contract has it."""
    since, before = which.get("created_from"), which.get("created_before")
    return invoker_service_pb2.ListRunsRequest(
        statuses=[run_pb2.RunStatus.ValueType(status) for status in which.get("statuses", ())],
        intent=which.get("intent", ""),
        create_time_from=stamp_of(since) if since else None,
        create_time_before=stamp_of(before) if before else None,
        session_id=which.get("session_id", ""),
        correlation_id=which.get("correlation_id", ""),
        labels=which.get("labels") or {},
        parent_run_id=which.get("parent_run_id", ""),
    )


async def act(
    stub: InvokerServiceStub, link: Link, request: invoker_service_pb2.ActOnRunsRequest
) -> AsyncIterator[Acted]:
    """Send it, and yield the answers. Raises `HoldfastError`."""
    call = stub.ActOnRuns(request, metadata=link.metadata)
    try:
        async for answer in call:
            yield Acted(
                answer.matched,
                answer.done,
                answer.skipped,
                tuple(answer.run_ids),
                tuple(Skipped(each.run_id, each.reason, each.message) for each in answer.skipped_runs),
                answer.finished,
            )
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    finally:
        call.cancel()
