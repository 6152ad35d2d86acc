"""The part of `InvokerService` with which people stop, hold and start runs: one, or all that match."""

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from holdfast.invoker.acting import Acting
from holdfast.invoker.deciding import MAX_REASON_BYTES
from holdfast.invoker.envelope import Violations, check_budget, limits_of, named_run
from holdfast.invoker.parts import Parts
from holdfast.invoker.view import run_message
from holdfast.kit.auth.capability import current_capability
from holdfast.kit.db import Database
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.ledger import inspect, retry, spawn
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2

Context = grpc.aio.ServicerContext[Any, Any]


class Operating:
    """What its servicer says of its parts and its ledger is what this part works with."""

    _parts: Parts
    _db: Database

    async def CancelRun(  # noqa: N802
        self,
        request: pb.CancelRunRequest,
        _context: Context,
    ) -> pb.CancelRunResponse:
        """Ask a run to stop."""
        wrong = Violations()
        wrong.text("reason", request.reason, limit=MAX_REASON_BYTES)
        run_id = named_run(request, wrong)
        tenant = current_tenant()
        lease = current_capability()
        if lease is not None:
            await spawn.demand_child(self._db, tenant, run_id, lease.run_id)
        await self._parts.stopping.cancel(tenant, run_id, request.reason)
        return pb.CancelRunResponse(run=await self._run(tenant, run_id))

    async def PauseRun(  # noqa: N802
        self,
        request: pb.PauseRunRequest,
        _context: Context,
    ) -> pb.PauseRunResponse:
        """Hold a run."""
        wrong = Violations()
        wrong.text("reason", request.reason, limit=MAX_REASON_BYTES)
        run_id = named_run(request, wrong)
        tenant = current_tenant()
        await self._parts.stopping.pause(tenant, run_id, request.reason)
        return pb.PauseRunResponse(run=await self._run(tenant, run_id))

    async def ResumeRun(  # noqa: N802
        self,
        request: pb.ResumeRunRequest,
        _context: Context,
    ) -> pb.ResumeRunResponse:
        """Let a paused run go on."""
        run_id = named_run(request, Violations())
        tenant = current_tenant()
        await self._parts.stopping.resume(tenant, run_id)
        return pb.ResumeRunResponse(run=await self._run(tenant, run_id))

    async def RetryRun(  # noqa: N802
        self,
        request: pb.RetryRunRequest,
        _context: Context,
    ) -> pb.RetryRunResponse:
        """Start an ended run again from its recorded steps."""
        wrong = Violations()
        check_budget(request.budget, wrong)
        run_id = named_run(request, wrong)
        tenant = current_tenant()
        moved = await retry.retry(self._db, tenant, run_id, limits_of(request.budget))
        self._parts.hints.moved(moved)
        return pb.RetryRunResponse(run=await self._run(tenant, run_id))

    async def ActOnRuns(  # noqa: N802
        self,
        request: pb.ActOnRunsRequest,
        _context: Context,
    ) -> AsyncIterator[pb.ActOnRunsResponse]:
        """Do one thing with all runs that match."""
        acting = Acting(self._db, self._parts.stopping, self._parts.hints)
        async with aclosing(acting.act(current_tenant(), request)) as answers:
            async for answer in answers:
                yield answer

    async def _run(self, tenant: str, run_id: uuid.UUID) -> run_pb2.Run:
        async with self._db.connection() as connection:
            return run_message(await inspect.get(connection, tenant, run_id))
