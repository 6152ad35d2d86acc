"""Batches over gRPC: taken in whole or refused by the field, and known to their tenant alone."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from holdfast.kit.rpc.client import channel, streaming
from holdfast.v1 import batch_pb2, batch_service_pb2, batch_service_pb2_grpc
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, fields_of, of_tenant, reason_of
from tests.support.ledger import fetch

pb: Any = batch_service_pb2


@pytest.fixture
async def batches(door: Invoker, worker: Runner) -> AsyncIterator[Any]:
    del worker
    async with channel(door.address) as opened:
        yield batch_service_pb2_grpc.BatchServiceStub(opened)


def spec(**more: Any) -> dict[str, Any]:
    return {"spec": {"invocation": {"intent": "count"}} | more}


def chunk(*payloads: dict[str, Any], offset: int = 0) -> dict[str, Any]:
    items = []
    for payload in payloads:
        item = pb.BatchChunk().items.add()
        item.payload.update(payload)
        items.append(item)
    return {"chunk": {"offset": offset, "items": items}}


async def create(batches: Any, *messages: dict[str, Any]) -> Any:
    return await batches.CreateBatch(iter([pb.CreateBatchRequest(**each) for each in messages]))


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"max_parallelism": -1}, "spec.max_parallelism"),
        ({"max_parallelism": 10_001}, "spec.max_parallelism"),
        ({"display_name": "a\0b"}, "spec.display_name"),
        ({"idempotency_key": "k" * 256}, "spec.idempotency_key"),
        ({"tolerance": {"max_share": 1.5}}, "spec.tolerance.max_share"),
        ({"tolerance": {"max_share": float("nan")}}, "spec.tolerance.max_share"),
        ({"tolerance": {"max_items": -1}}, "spec.tolerance.max_items"),
        ({"retry": {"max_attempts": -1}}, "spec.retry.max_attempts"),
        ({"invocation": {"intent": "count", "run_id": str(uuid.uuid4())}}, "spec.invocation.run_id"),
        ({"invocation": {"intent": "count", "idempotency_key": "k"}}, "spec.invocation.idempotency_key"),
        ({"source": {"source": "crm"}}, "spec.source.source"),
        ({"apply": {"effect": {"destination": ""}}}, "spec.apply.effect.destination"),
        ({"apply": {}}, "spec.apply"),
        ({"apply": {"follow_up": {"intent": "no intent"}}}, "spec.apply.follow_up.intent"),
        ({"apply": {"follow_up": {"intent": "count"}, "undo": {"intent": ""}}}, "spec.apply.undo.intent"),
        ({"apply": {"effect": {"destination": "crm"}, "undo": {"intent": "count"}}}, "spec.apply.undo"),
        (
            {"apply": {"follow_up": {"intent": "count", "run_id": str(uuid.uuid4())}}},
            "spec.apply.follow_up.run_id",
        ),
        ({"review": {"min_accepted_share": 1.1}}, "spec.review.min_accepted_share"),
        ({"review": {"min_accepted_share": float("nan")}}, "spec.review.min_accepted_share"),
        ({"review": {"min_judged": -1}}, "spec.review.min_judged"),
        ({"review": {"min_accepted_share": 0.9, "apply_when_met": True}}, "spec.review.apply_when_met"),
        ({"skip_staging": True, "review": {"min_judged": 1}}, "spec.review"),
    ],
)
async def test_what_is_malformed_or_not_served_is_named(
    batches: Any, more: dict[str, Any], field: str
) -> None:
    error = await refusal(create(batches, spec(**more), {"complete_count": 0}))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(error) == [field]
    assert not (await batches.ListBatches(pb.ListBatchesRequest())).batches, "nothing was stored"


async def test_items_before_a_spec_are_out_of_order(batches: Any) -> None:
    error = await refusal(create(batches, chunk({"n": 1})))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL")


async def test_a_count_other_than_what_was_stored_leaves_the_batch_open(batches: Any) -> None:
    error = await refusal(create(batches, spec(), chunk({"n": 1}), {"complete_count": 2}))
    assert reason_of(error) == "STREAM_PROTOCOL"
    (batch,) = (await batches.ListBatches(pb.ListBatchesRequest())).batches
    assert (batch.status, batch.uploaded_items) == (batch_pb2.BATCH_STATUS_UPLOADING, 1)
    resumed = await create(
        batches, {"resume_batch_id": batch.batch_id}, chunk({"n": 2}, offset=1), {"complete_count": 2}
    )
    assert (resumed.batch.status, resumed.next_offset) == (batch_pb2.BATCH_STATUS_READY, 2)


async def test_the_same_key_is_the_same_batch_and_never_another(batches: Any) -> None:
    sent = (spec(idempotency_key="nightly"), chunk({"n": 1}), {"complete_count": 1})
    first = await create(batches, *sent)
    again = await create(batches, *sent)
    assert (again.batch.batch_id, again.reattached) == (first.batch.batch_id, True)
    error = await refusal(create(batches, spec(idempotency_key="nightly", in_order=True)))
    assert reason_of(error) == "IDEMPOTENCY_KEY_REUSED"


@pytest.mark.parametrize(
    "call",
    [
        "StartBatch",
        "GetBatch",
        "ListBatchItems",
        "PauseBatch",
        "ResumeBatch",
        "CancelBatch",
        "RetryBatchItems",
        "UpdateBatch",
        "SampleBatch",
        "ReviewItems",
        "ApplyBatch",
        "RollbackBatch",
    ],
)
async def test_another_tenant_s_batch_is_as_unknown_as_one_that_never_was(batches: Any, call: str) -> None:
    theirs = await create(batches, spec(), chunk({"n": 1}), {"complete_count": 1})
    request = getattr(pb, f"{call}Request")
    more = {"reason": "wrong"} if call == "RollbackBatch" else {}
    foreign = await refusal(
        getattr(batches, call)(
            request(batch_id=theirs.batch.batch_id, **more),
            metadata=[*of_tenant("umbrella"), ("holdfast-user", "ann")],
        )
    )
    unknown = await refusal(
        getattr(batches, call)(
            request(batch_id=str(uuid.uuid4()), **more), metadata=[("holdfast-user", "ann")]
        )
    )
    for error in (foreign, unknown):
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "BATCH_NOT_FOUND")
    seen = (await batches.GetBatch(pb.GetBatchRequest(batch_id=theirs.batch.batch_id))).batch
    assert seen.status == batch_pb2.BATCH_STATUS_READY


async def test_what_makes_no_sense_where_the_batch_stands_says_where_that_is(batches: Any) -> None:
    made = await create(batches, spec(), chunk({"n": 1}))
    error = await refusal(batches.StartBatch(pb.StartBatchRequest(batch_id=made.batch.batch_id)))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "BATCH_NOT_READY")


async def test_items_go_to_waiting_runners_at_once_and_their_ends_alone_make_room_for_the_next(
    door: Invoker, worker: Runner, batches: Any
) -> None:
    made = await create(
        batches, spec(max_parallelism=2), chunk(*({"n": n} for n in range(6))), {"complete_count": 6}
    )
    del door.parts.caretaker._woken["batching"]
    await batches.StartBatch(pb.StartBatchRequest(batch_id=made.batch.batch_id))
    for _ in range(6):
        held = await worker.take()
        assert len(worker.held) <= 2
        await worker.end(held)
    async with (
        asyncio.timeout(30),
        streaming(batches.WatchBatch(pb.WatchBatchRequest(batch_id=made.batch.batch_id))) as updates,
    ):
        async for update in updates:
            if update.batch.status == batch_pb2.BATCH_STATUS_IN_REVIEW:
                break
    rows = await fetch(door.parts.db, "SELECT start_time = create_time AS placed FROM run_state")
    assert [row["placed"] for row in rows] == [True] * 6, "none has waited for a claim"
