"""The calls about tenants, which the Invoker serves."""

from collections.abc import AsyncIterator, Mapping
from typing import Final

from holdfast.client.link import Link, Metadata
from holdfast.client.tenant import Statistics, Tenant
from holdfast.client.wire_tenant import Limit, statistics_of, tenant_of, update_message
from holdfast.v1 import tenant_service_pb2 as pb
from holdfast.v1 import tenant_service_pb2_grpc

_OPERATOR: Final[Metadata] = (("holdfast-roles", "operator"),)


class Tenants:
    """What tenants may do and how they fare: `client.tenants`.

    Its calls are an operator's; a platform that knows who calls may refuse them: `PermissionDenied`.
    """

    def __init__(self, stub: tenant_service_pb2_grpc.TenantServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def get(self, tenant: str = "") -> Tenant:
        """Return a tenant, the client's own if none is named. Raises `TenantNotFound`."""
        request = pb.GetTenantRequest(tenant=tenant)
        return tenant_of((await self._link.call(self._stub.GetTenant, request, more=_OPERATOR)).tenant)

    async def statistics(self, tenant: str = "") -> Statistics:
        """Return a tenant's queue, the client's own if none is named. Raises `TenantNotFound`."""
        request = pb.GetTenantStatisticsRequest(tenant=tenant)
        response = await self._link.call(self._stub.GetTenantStatistics, request, more=_OPERATOR)
        return statistics_of(response.statistics)

    async def list(self, *, page_size: int = 100) -> AsyncIterator[tuple[Tenant, Statistics]]:
        """Yield the tenants by name, each with its queue as a whole, page by page."""
        request = pb.ListTenantsRequest(page_size=page_size, include_statistics=True)
        while True:
            page = await self._link.call(self._stub.ListTenants, request, more=_OPERATOR)
            for tenant, statistics in zip(page.tenants, page.statistics, strict=True):
                yield tenant_of(tenant), statistics_of(statistics)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def set(
        self,
        tenant: str,
        *,
        weight: int | None = None,
        max_in_flight: int | None = None,
        max_queued: int | None = None,
        rate: float | None = None,
        burst: int | None = None,
        deadline_ms: int | None = None,
        max_steps: int | None = None,
        max_tools: int | None = None,
        max_tokens: int | None = None,
        max_context: int | None = None,
        alert_destination: str | None = None,
        max_in_flight_by_intent: Mapping[str, int] | None = None,
        retention: Mapping[str, float] | None = None,
        max_in_flight_per_user: int | None = None,
        max_in_flight_by_user: Mapping[str, int] | None = None,
    ) -> Tenant:
        """Change the limits that are given, and make the tenant if it is new; 0 is the platform's default.

        `deadline_ms` and the four after it are those of a run that asks for none. The caps of intents are
        given all together, and so are those of named users. Of `retention`, seconds by shape, those named
        change. A change holds from the next call on.
        """
        limits: dict[str, Limit | None] = {
            "weight": weight,
            "max_in_flight": max_in_flight,
            "max_queued": max_queued,
            "rate": rate,
            "burst": burst,
            "deadline_ms": deadline_ms,
            "max_steps": max_steps,
            "max_tools": max_tools,
            "max_tokens": max_tokens,
            "max_context": max_context,
            "alert_destination": alert_destination,
            "max_in_flight_by_intent": max_in_flight_by_intent,
            **{f"keep_{shape}": seconds for shape, seconds in (retention or {}).items()},
            "max_in_flight_per_user": max_in_flight_per_user,
            "max_in_flight_by_user": max_in_flight_by_user,
        }
        request = update_message(tenant, {name: n for name, n in limits.items() if n is not None})
        return tenant_of((await self._link.call(self._stub.UpdateTenant, request, more=_OPERATOR)).tenant)
