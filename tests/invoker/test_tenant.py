"""Operators edit limits that hold from the next call on; tenants see themselves, and no others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.kit.rpc.client import channel
from holdfast.v1 import tenant_service_pb2, tenant_service_pb2_grpc
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, fields_of, of_tenant, reason_of
from tests.kit.until import until
from tests.support.ledger import admitted, fetch, invocation, opened

pb: Any = tenant_service_pb2
OPERATOR = [("holdfast-roles", "auditor, operator")]


@pytest.fixture
async def tenants(door: Invoker) -> AsyncIterator[Any]:
    async with channel(door.address) as opened_channel:
        yield tenant_service_pb2_grpc.TenantServiceStub(opened_channel)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def update(tenants: Any, name: str, *paths: str, allow_missing: bool = True, **limits: Any) -> Any:
    request = pb.UpdateTenantRequest(
        tenant={"tenant": name} | limits,
        update_mask=field_mask_pb2.FieldMask(paths=paths),
        allow_missing=allow_missing,
    )
    return (await tenants.UpdateTenant(request, metadata=OPERATOR)).tenant


async def test_a_tenant_is_put_whole_and_read_with_its_defaults(tenants: Any) -> None:
    limits = {"weight": 4, "max_in_flight": 50, "rate": {"runs_per_second": 20}}
    request = pb.PutTenantRequest(tenant={"tenant": "acme", "default_budget": {"max_steps": 9}} | limits)
    put = (await tenants.PutTenant(request, metadata=OPERATOR)).tenant
    assert (put.weight, put.max_in_flight, put.max_queued) == (4, 50, 1_000_000)
    assert (put.rate.runs_per_second, put.rate.burst) == (20, 20)
    assert (put.default_budget.max_steps, put.default_budget.max_tools) == (9, 1000)
    own = await tenants.GetTenant(pb.GetTenantRequest(), metadata=of_tenant("acme"))
    assert own.tenant == put
    again = await tenants.PutTenant(pb.PutTenantRequest(tenant={"tenant": "acme"}), metadata=OPERATOR)
    assert (again.tenant.weight, again.tenant.rate.runs_per_second) == (1, 100_000)
    assert again.tenant.create_time == put.create_time


async def test_an_update_changes_what_its_mask_names_and_nothing_else(tenants: Any) -> None:
    await update(tenants, "acme", "weight", "rate", weight=4, rate={"runs_per_second": 5, "burst": 2})
    changed = await update(
        tenants, "acme", "rate.burst", "default_budget.max_steps", weight=9, rate={"burst": 7},
        default_budget={"max_steps": 3, "max_tools": 3},
    )  # fmt: skip
    assert (changed.weight, changed.rate.runs_per_second, changed.rate.burst) == (4, 5, 7)
    assert (changed.default_budget.max_steps, changed.default_budget.max_tools) == (3, 1000)
    assert (await update(tenants, "acme", "weight")).weight == 1, "0 is the platform's default"
    error = await refusal(update(tenants, "nobody", "weight", weight=4, allow_missing=False))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND")


async def test_how_long_runs_are_kept_is_set_by_shape(tenants: Any) -> None:
    kept = {"batch": {"seconds": 604_800}, "service": {"seconds": 1, "nanos": 500_000_000}}
    put = await update(tenants, "acme", "retention", retention=kept)
    assert (put.retention.batch.seconds, put.retention.service.nanos) == (604_800, 500_000_000)
    assert not put.retention.HasField("workflow")
    other = {"batch": {"seconds": 60}, "worker": {"seconds": 9}}
    some = await update(tenants, "acme", "retention.batch", retention=other)
    assert (some.retention.batch.seconds, some.retention.service.seconds) == (60, 1)
    assert not some.retention.HasField("worker"), "what the mask does not name stays"
    assert not (await update(tenants, "acme", "retention.batch")).retention.HasField("batch")
    page = await tenants.ListTenants(pb.ListTenantsRequest(), metadata=OPERATOR)
    assert [one.retention.service.seconds for one in page.tenants] == [1]
    again = await tenants.PutTenant(pb.PutTenantRequest(tenant={"tenant": "acme"}), metadata=OPERATOR)
    assert not again.tenant.HasField("retention")


async def test_every_field_that_is_wrong_is_named(tenants: Any) -> None:
    wrong = {
        "tenant": " acme",
        "weight": 1001,
        "max_in_flight": -1,
        "max_queued": 1 << 40,
        "rate": {"runs_per_second": float("nan"), "burst": -1},
        "default_budget": {"deadline_ms": -1, "max_context": 1 << 40},
        "max_in_flight_per_user": -1,
        "max_in_flight_by_user": {"ann": 0},
        "max_in_flight_by_intent": {"count": 0},
        "retention": {
            "service": {"nanos": 1},
            "worker": {"seconds": -60},
            "workflow": {"seconds": 36_501 * 86_400},
            "batch": {"seconds": 60},
        },
    }
    error = await refusal(tenants.PutTenant(pb.PutTenantRequest(tenant=wrong), metadata=OPERATOR))
    assert reason_of(error) == "INVALID_FIELD"
    assert set(fields_of(error)) == {
        "tenant.tenant",
        "tenant.weight",
        "tenant.max_in_flight",
        "tenant.max_queued",
        "tenant.rate.runs_per_second",
        "tenant.rate.burst",
        "tenant.default_budget.deadline_ms",
        "tenant.default_budget.max_context",
        "tenant.max_in_flight_per_user",
        "tenant.max_in_flight_by_user[ann]",
        "tenant.max_in_flight_by_intent[count]",
        "tenant.retention.service",
        "tenant.retention.worker",
        "tenant.retention.workflow",
    }
    for users in ({"": 1}, {"a" * 256: 1}, {"a\nb": 1}, {f"u{n}": 1 for n in range(1001)}):
        call = update(tenants, "acme", "max_in_flight_by_user", max_in_flight_by_user=users)
        assert fields_of(await refusal(call)) == ["tenant.max_in_flight_by_user"]
    for paths in ((), ("weight", "colour"), ("create_time",), ("max_in_flight_by",)):
        error = await refusal(update(tenants, "acme", *paths, weight=1))
        assert fields_of(error) == ["update_mask"], paths
    listing = pb.ListTenantsRequest(page_size=501, page_token="x")
    error = await refusal(tenants.ListTenants(listing, metadata=OPERATOR))
    assert fields_of(error) == ["page_size", "page_token"]


async def test_only_an_operator_sees_others_or_changes_limits(tenants: Any) -> None:
    await update(tenants, "acme", "weight", weight=4)
    umbrella = of_tenant("umbrella")
    for call in (
        tenants.GetTenant(pb.GetTenantRequest(tenant="acme"), metadata=umbrella),
        tenants.GetTenant(pb.GetTenantRequest(tenant="nobody"), metadata=umbrella),
        tenants.GetTenantStatistics(pb.GetTenantStatisticsRequest(tenant="acme"), metadata=umbrella),
        tenants.ListTenants(pb.ListTenantsRequest(), metadata=umbrella),
        tenants.PutTenant(pb.PutTenantRequest(tenant={"tenant": "umbrella"}), metadata=umbrella),
        tenants.UpdateTenant(pb.UpdateTenantRequest(tenant={"tenant": "umbrella"}), metadata=umbrella),
    ):
        error = await refusal(call)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    for call in (
        tenants.GetTenant(pb.GetTenantRequest(), metadata=umbrella),
        tenants.GetTenantStatistics(pb.GetTenantStatisticsRequest(tenant="umbrella"), metadata=umbrella),
        tenants.GetTenant(pb.GetTenantRequest(tenant="nobody"), metadata=OPERATOR),
    ):
        assert reason_of(await refusal(call)) == "TENANT_NOT_FOUND"


async def test_a_list_is_read_page_by_page_with_its_queues(door: Invoker, tenants: Any) -> None:
    for n in range(3):
        await update(tenants, f"t{n}", "weight", weight=n + 1)
    await admitted(door.parts.db, *(invocation(tenant="t1") for _ in range(2)))
    request = pb.ListTenantsRequest(page_size=2, include_statistics=True)
    found: list[tuple[Any, Any]] = []
    while True:
        page = await tenants.ListTenants(request, metadata=OPERATOR)
        found += zip(page.tenants, page.statistics, strict=True)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    told = [(one.tenant, one.weight, queue.tenant, queue.queue.queued) for one, queue in found]
    assert told == [("t0", 1, "t0", 0), ("t1", 2, "t1", 2), ("t2", 3, "t2", 0)]


async def test_a_call_above_the_rate_is_told_when_to_come_again_and_is_counted(
    door: Invoker, worker: Runner, tenants: Any
) -> None:
    del worker
    await update(tenants, "default", "rate", rate={"runs_per_second": 2, "burst": 1})
    first = (await door.invoke(idempotency_key="k")).run.run_id
    error = await refusal(door.invoke())
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    status = rpc_status.from_call(error)
    assert status is not None
    retry, quota = error_details_pb2.RetryInfo(), error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert any(detail.Unpack(quota) for detail in status.details)
    assert quota.violations[0].subject == "rate"
    wait = retry.retry_delay.ToTimedelta().total_seconds()
    assert 0 < wait <= 0.501
    assert (await door.invoke(idempotency_key="k")).run.run_id == first, "what is known is found at any pace"
    await asyncio.sleep(wait)  # the promise under test is about time
    await door.invoke()

    await door.parts.refusals.loop.signal.completed(2)
    own = await tenants.GetTenantStatistics(pb.GetTenantStatisticsRequest())
    assert own.statistics.queue.refused_rate == 1


async def test_refusals_are_counted_together_and_the_end_of_a_process_loses_none(
    door: Invoker, worker: Runner, tenants: Any
) -> None:
    del worker
    slow = {"runs_per_second": 0.001, "burst": 1}
    await update(tenants, "default", "rate", rate=slow)
    await door.invoke()
    for _ in range(20):
        await refusal(door.invoke())
    await door.parts.refusals.close()
    (row,) = await fetch(door.parts.db, "SELECT refused_rate, refused_queue_full FROM tenant")
    assert dict(row) == {"refused_rate": 20, "refused_queue_full": 0}


async def test_a_raised_cap_gives_waiting_runs_to_runners_at_once(
    door: Invoker, worker: Runner, tenants: Any
) -> None:
    await update(tenants, "default", "max_in_flight", max_in_flight=1)
    for _ in range(4):
        await door.invoke()
    await until(lambda: len(worker.held) == 1)
    queue = (await tenants.GetTenantStatistics(pb.GetTenantStatisticsRequest())).statistics
    assert (queue.queue.queued, queue.queue.in_flight, queue.queue.throttled) == (3, 1, True)
    assert [(part.intent, part.queue.queued) for part in queue.intents] == [("count", 3)]
    assert (
        queue.queue.oldest_age.ToTimedelta()
        <= queue.snapshot_time.ToDatetime()
        - (await door.run(next(iter(worker.held)))).create_time.ToDatetime()
    )
    await update(tenants, "default", "max_in_flight", max_in_flight=9)
    await until(lambda: len(worker.held) == 4)


async def test_a_tenant_without_a_queue_has_no_oldest_age(door: Invoker, tenants: Any) -> None:
    await admitted(door.parts.db, invocation())
    await (await opened(door.parts.db)).take()
    asked = tenants.GetTenantStatistics(pb.GetTenantStatisticsRequest(), metadata=of_tenant("acme"))
    queue = (await asked).statistics
    assert not queue.queue.HasField("oldest_age")
    assert list(queue.intents) == []


async def test_a_cap_of_an_intent_is_edited_while_runs_wait_for_it(
    tenants: Any, door: Invoker, worker: Runner
) -> None:
    put = await update(tenants, "default", "max_in_flight_by_intent", max_in_flight_by_intent={"count": 2})
    assert dict(put.max_in_flight_by_intent) == {"count": 2}
    ids = [(await door.invoke()).run.run_id for _ in range(4)]
    await until(lambda: len(worker.held) == 2)

    async def told() -> bool:
        return "max_in_flight_by_intent" in (await door.run(ids[3])).held_back

    await until(told)
    await worker.end(worker.held[ids[0]])
    await worker.take(ids[2])
    assert len(worker.held) == 2
    await update(tenants, "default", "max_in_flight_by_intent")
    await worker.take(ids[3])
    assert (await door.run(ids[3])).held_back == ""


async def test_caps_of_users_are_edited_while_runs_wait_for_them(
    tenants: Any, door: Invoker, worker: Runner
) -> None:
    put = await update(
        tenants, "default", "max_in_flight_per_user", "max_in_flight_by_user",
        max_in_flight_per_user=1, max_in_flight_by_user={"ann": 2, "zoë": 255},
    )  # fmt: skip
    assert (put.max_in_flight_per_user, dict(put.max_in_flight_by_user)) == (1, {"ann": 2, "zoë": 255})
    ids = [
        (await door.invoke(caller={"tenant": "default", "user": user})).run.run_id
        for user in ("ann",) * 4 + ("bob",) * 2
    ]
    await until(lambda: len(worker.held) == 3)

    async def told() -> bool:
        return "max_in_flight_by_user of ann is reached: 2" in (await door.run(ids[3])).held_back

    await until(told)
    assert (await door.run(ids[5])).held_back == "max_in_flight_per_user of bob is reached: 1"
    queue = (await tenants.GetTenantStatistics(pb.GetTenantStatisticsRequest())).statistics.queue
    assert (queue.queued, queue.in_flight, queue.throttled) == (3, 3, True)
    await worker.end(worker.held[ids[0]])
    await worker.take(ids[2])
    await until(lambda: len(worker.held) == 3)
    read = await update(tenants, "default", "max_in_flight_by_user")
    assert (read.max_in_flight_per_user, dict(read.max_in_flight_by_user)) == (1, {})
    await update(tenants, "default", "max_in_flight_per_user")
    await worker.take(ids[3])
    await worker.take(ids[5])
    assert (await door.run(ids[3])).held_back == ""
