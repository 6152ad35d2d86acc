"""Tenants between plain values and the contract's messages."""

from collections.abc import Mapping
from typing import Final

from holdfast.client.tenant import Queue, Statistics, Tenant
from holdfast.client.wire_run import budget_of
from holdfast.client.wire_value import duration_of, seconds_of, time_of
from holdfast.v1 import tenant_pb2, tenant_service_pb2

Limit = float | str | Mapping[str, int]

_SHAPES: Final = ("service", "worker", "workflow", "batch")
_PATHS: Final = {
    "alert_destination": "alert_destination",
    "max_in_flight_by_intent": "max_in_flight_by_intent",
    "max_in_flight_per_user": "max_in_flight_per_user",
    "max_in_flight_by_user": "max_in_flight_by_user",
    "weight": "weight",
    "max_in_flight": "max_in_flight",
    "max_queued": "max_queued",
    "rate": "rate.runs_per_second",
    "burst": "rate.burst",
    **{
        name: f"default_budget.{name}"
        for name in ("deadline_ms", "max_steps", "max_tools", "max_tokens", "max_context")
    },
    **{f"keep_{shape}": f"retention.{shape}" for shape in _SHAPES},
}


def tenant_of(message: tenant_pb2.Tenant) -> Tenant:
    """Return a tenant."""
    return Tenant(
        tenant=message.tenant,
        weight=message.weight,
        max_in_flight=message.max_in_flight,
        max_queued=message.max_queued,
        rate=message.rate.runs_per_second,
        burst=message.rate.burst,
        default_budget=budget_of(message.default_budget),
        alert_destination=message.alert_destination,
        max_in_flight_by_intent=dict(message.max_in_flight_by_intent),
        retention={
            shape: seconds_of(getattr(message.retention, shape))
            for shape in _SHAPES
            if message.retention.HasField(shape)
        },
        max_in_flight_per_user=message.max_in_flight_per_user,
        max_in_flight_by_user=dict(message.max_in_flight_by_user),
        create_time=time_of(message.create_time),
        update_time=time_of(message.update_time),
    )


def statistics_of(message: tenant_pb2.TenantStatistics) -> Statistics:
    """Return a tenant's queue."""
    return Statistics(
        tenant=message.tenant,
        queue=_queue_of(message.queue),
        intents={part.intent: _queue_of(part.queue) for part in message.intents},
        snapshot_time=time_of(message.snapshot_time),
    )


def update_message(tenant: str, limits: Mapping[str, Limit]) -> tenant_service_pb2.UpdateTenantRequest:
    """Return the request that changes these limits. Raises ValueError for what no limit can be."""
    request = tenant_service_pb2.UpdateTenantRequest(allow_missing=True)
    request.tenant.tenant = tenant
    for name, value in limits.items():
        path = _PATHS.get(name, "")
        if not path:
            raise ValueError(f"{name.removeprefix('keep_')!r} is none of {', '.join(_SHAPES)}.")
        request.update_mask.paths.append(path)
        holder, _, field = path.rpartition(".")
        message = getattr(request.tenant, holder) if holder else request.tenant
        if isinstance(value, Mapping):
            getattr(message, field).update(value)
        elif holder == "retention":
            getattr(message, field).CopyFrom(duration_of(float(value)))
        else:
            setattr(message, field, value)
    return request


def _queue_of(message: tenant_pb2.QueueStatistics) -> Queue:
    return Queue(
        queued=message.queued,
        oldest_age=seconds_of(message.oldest_age) if message.HasField("oldest_age") else None,
        in_flight=message.in_flight,
        parked=message.parked,
        dead_lettered=message.dead_lettered,
        refused_queue_full=message.refused_queue_full,
        refused_rate=message.refused_rate,
        throttled=message.throttled,
    )
