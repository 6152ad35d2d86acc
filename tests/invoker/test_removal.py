"""Invokers remove runs by their tenant's retention; who asks for one that is gone is told so."""

from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf import field_mask_pb2

from holdfast.kit.rpc.client import channel
from holdfast.ledger import batch, tenant
from holdfast.v1 import (
    batch_service_pb2,
    batch_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, of_tenant, pb, reason_of
from tests.invoker.watcher import Watcher
from tests.kit.until import until
from tests.support.batch import new_batch
from tests.support.ledger import contradictions, execute, fetch
from tests.support.retention import ended_ago, traces

OPERATOR = [("holdfast-roles", "operator")]
HOUR = 3600


async def keep_services_an_hour(door: Invoker, tenant: str) -> None:
    messages: Any = tenant_service_pb2
    request = messages.UpdateTenantRequest(
        tenant={"tenant": tenant, "retention": {"service": {"seconds": HOUR}}},
        update_mask=field_mask_pb2.FieldMask(paths=["retention.service"]),
    )
    async with channel(door.address) as opened:
        await tenant_service_pb2_grpc.TenantServiceStub(opened).UpdateTenant(request, metadata=OPERATOR)


async def test_a_run_is_there_until_its_retention_is_over_and_then_it_is_not_found(
    door: Invoker, worker: Runner
) -> None:
    key = {"idempotency_key": "invoice-7"}
    run_id = (await door.invoke(**key)).run.run_id
    other = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    held.show("a")
    await worker.end(held)
    still = await worker.take(other)
    await keep_services_an_hour(door, (await door.run(run_id)).caller.tenant)
    loop = door.parts.caretaker.removal
    before = loop.signal.rounds
    loop.wake()
    await until(lambda: loop.signal.rounds > before)
    assert (await Watcher(door, run_id).finished())[-1].sequence > 1
    assert (await door.invoke(**key)).run.run_id == run_id

    db = door.parts.db
    run = UUID(run_id)
    await ended_ago(db, HOUR + 1, run)
    loop.wake()
    await until(lambda: _gone(door, run))
    for call in (
        door.invoker.GetRun(pb.GetRunRequest(run_id=run_id)),
        door.invoker.AwaitRun(pb.AwaitRunRequest(run_id=run_id)),
        door.invoker.RetryRun(pb.RetryRunRequest(run_id=run_id)),
        door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id)).read(),
        door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=2)).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert (caught.value.code(), reason_of(caught.value)) == (
            grpc.StatusCode.NOT_FOUND,
            "RUN_NOT_FOUND",
        )
    again = await door.invoke(**key)
    assert (again.run.run_id != run_id, again.reattached) == (True, False)
    await worker.end(still)
    assert (await door.run(other)).HasField("end_time")
    assert await contradictions(db) == []


async def _gone(door: Invoker, run_id: UUID) -> bool:
    return not await traces(door.parts.db, run_id)


async def test_a_batch_and_a_session_are_not_found_once_their_retention_is_over(door: Invoker) -> None:
    db, loop = door.parts.db, door.parts.caretaker.removal
    which = await new_batch(db, 3, start=False)
    await batch.cancel(db, "acme", which.batch_id, "no more")
    await execute(
        db,
        "INSERT INTO session (tenant, session_id, state, version, run_id)"
        " VALUES ('acme', 'talk', '1', 1, gen_random_uuid())",
    )
    door.parts.batches.loop.wake()
    await until(lambda: _idle(door))
    await tenant.change(db, "acme", {"keep_batch_s": HOUR, "keep_service_s": HOUR}, make=True)
    metadata = of_tenant("acme")
    async with channel(door.address) as opened:
        asked = batch_service_pb2.GetBatchRequest(batch_id=str(which.batch_id))
        session = pb.GetSessionRequest(session_id="talk")
        stub: Any = batch_service_pb2_grpc.BatchServiceStub(opened)
        before = loop.signal.rounds
        loop.wake()
        await until(lambda: loop.signal.rounds > before)
        await stub.GetBatch(asked, metadata=metadata)
        await door.invoker.GetSession(session, metadata=metadata)
        await execute(db, "UPDATE batch SET end_time = end_time - interval '2 h'")
        await execute(db, "UPDATE session SET update_time = update_time - interval '2 h'")
        loop.wake()
        await until(lambda: _gone(door, which.batch_id))
        for call, reason in (
            (stub.GetBatch(asked, metadata=metadata), "BATCH_NOT_FOUND"),
            (door.invoker.GetSession(session, metadata=metadata), "SESSION_NOT_FOUND"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert reason_of(caught.value) == reason


async def _idle(door: Invoker) -> bool:
    return not await fetch(door.parts.db, "SELECT FROM batch_active")
