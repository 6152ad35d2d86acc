"""Serves `TenantService`: limits that hold from the next call on, and queues read from counters."""

from typing import Any

import grpc

from holdfast.invoker.parts import Parts
from holdfast.invoker.tenant_message import (
    PATHS,
    paths_of,
    read_name,
    read_terms,
    statistics_message,
    tenant_message,
)
from holdfast.kit.errors import PermissionDenied, TenantNotFound
from holdfast.kit.rpc.page import cursor_of, size_of, token_of
from holdfast.kit.rpc.person import OPERATOR, roles
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger import tenant as ledger_tenant
from holdfast.ledger import tenant_queue
from holdfast.v1 import tenant_pb2, tenant_service_pb2_grpc
from holdfast.v1 import tenant_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class TenantServicer(tenant_service_pb2_grpc.TenantServiceServicer):
    """What tenants may do, and how they fare."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db
        self._hints = parts.hints

    async def PutTenant(  # noqa: N802 - the contract's name
        self,
        request: pb.PutTenantRequest,
        context: Context,
    ) -> pb.PutTenantResponse:
        """Create a tenant, or replace its limits whole."""
        _demand_operator(context)
        wrong = Violations()
        tenant = await self._change(wrong, request.tenant, list(PATHS), make=True)
        return pb.PutTenantResponse(tenant=tenant)

    async def UpdateTenant(  # noqa: N802
        self,
        request: pb.UpdateTenantRequest,
        context: Context,
    ) -> pb.UpdateTenantResponse:
        """Change some of a tenant's limits."""
        _demand_operator(context)
        wrong = Violations()
        paths = paths_of(wrong, request.update_mask.paths)
        tenant = await self._change(wrong, request.tenant, paths, make=request.allow_missing)
        return pb.UpdateTenantResponse(tenant=tenant)

    async def GetTenant(  # noqa: N802
        self,
        request: pb.GetTenantRequest,
        context: Context,
    ) -> pb.GetTenantResponse:
        """Read a tenant."""
        name = _visible(request.tenant, context)
        async with self._db.connection() as connection:
            return pb.GetTenantResponse(tenant=tenant_message(await ledger_tenant.get(connection, name)))

    async def ListTenants(  # noqa: N802
        self,
        request: pb.ListTenantsRequest,
        context: Context,
    ) -> pb.ListTenantsResponse:
        """List tenants by name."""
        _demand_operator(context)
        wrong = Violations()
        limit = size_of(wrong, request.page_size)
        after = cursor_of(wrong, "tenants", request.page_token)
        wrong.check()
        async with self._db.connection() as connection:
            views, last = await ledger_tenant.list_tenants(connection, limit=limit, after=after)
            names = [view.tenant for view in views]
            queues = await tenant_queue.queues(connection, names) if request.include_statistics else {}
        return pb.ListTenantsResponse(
            tenants=[tenant_message(view) for view in views],
            statistics=[statistics_message(queues[name]) for name in names if name in queues],
            next_page_token=token_of("tenants", last) if last else "",
        )

    async def GetTenantStatistics(  # noqa: N802
        self,
        request: pb.GetTenantStatisticsRequest,
        context: Context,
    ) -> pb.GetTenantStatisticsResponse:
        """Read a tenant's queue."""
        name = _visible(request.tenant, context)
        async with self._db.connection() as connection:
            queue = (await tenant_queue.queues(connection, [name])).get(name)
            if queue is None:
                raise TenantNotFound("There is no such tenant.", facts={"tenant": name})
            intents = await tenant_queue.intents(connection, name)
        return pb.GetTenantStatisticsResponse(statistics=statistics_message(queue, intents))

    async def _change(
        self, wrong: Violations, asked: tenant_pb2.Tenant, paths: list[str], *, make: bool
    ) -> tenant_pb2.Tenant:
        name = read_name(wrong, "tenant.tenant", asked.tenant)
        terms = read_terms(wrong, asked, paths)
        wrong.check()
        changed = await ledger_tenant.change(self._db, name, terms, make=make)
        self._hints.queued(changed.pools)
        return tenant_message(changed.view)


def _visible(name: str, context: Context) -> str:
    """Return the tenant that a request names, if the caller may see it; its own if it names none."""
    if name in ("", current_tenant()):
        return current_tenant()
    _demand_operator(context)
    wrong = Violations()
    read_name(wrong, "tenant", name)
    wrong.check()
    return name


def _demand_operator(context: Context) -> None:
    if OPERATOR not in roles(context):
        raise PermissionDenied("Only an operator sees other tenants, or changes limits.")
