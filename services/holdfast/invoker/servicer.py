"""Serves `InvokerService`: message to verb to message."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

from holdfast.invoker.caretaker import Caretaker
from holdfast.invoker.conversation import Conversation
from holdfast.invoker.door import Door
from holdfast.invoker.envelope import (
    Violations,
    check_budget,
    parse_run_id,
    read_envelope,
    wait_seconds,
)
from holdfast.invoker.follow import Followers
from holdfast.invoker.listing import list_filters
from holdfast.invoker.stopping import Stopping
from holdfast.invoker.view import admitted_view, run_message
from holdfast.invoker.waiters import Waiters
from holdfast.kit.db import Database
from holdfast.kit.errors import NotYetAvailable
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.ledger import inspect, retry
from holdfast.ledger.domain.status import ENDED
from holdfast.ledger.run_list import list_runs
from holdfast.ledger.values import Limits
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import invoker_service_pb2_grpc, run_pb2, transcript_pb2

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_WAIT_SECONDS = 30.0
MAX_REASON_BYTES = 1000


class InvokerServicer(invoker_service_pb2_grpc.InvokerServiceServicer):
    """The door, and the windows onto what went through it."""

    def __init__(
        self,
        *,
        db: Database,
        door: Door,
        waiters: Waiters,
        followers: Followers,
        stopping: Stopping,
        caretaker: Caretaker,
        max_attempts: int,
    ) -> None:
        self._db = db
        self._door = door
        self._waiters = waiters
        self._followers = followers
        self._stopping = stopping
        self._caretaker = caretaker
        self._max_attempts = max_attempts

    async def Invoke(  # noqa: N802 - the contract's name
        self,
        request: pb.InvokeRequest,
        _context: Context,
    ) -> pb.InvokeResponse:
        """Start a run, or find the one its idempotency key stands for."""
        tenant = current_tenant()
        wait = wait_seconds(request)
        invocation = read_envelope(
            request, tenant=tenant, shape=run_pb2.SHAPE_SERVICE, max_attempts=self._max_attempts
        )
        admitted = await self._door.admit(invocation)
        view = None
        if wait and admitted.status not in ENDED:
            view = await self._waiters.ended(admitted.run_id, wait)
        elif admitted.created:
            view = admitted_view(invocation, admitted)
        run = run_message(view) if view is not None else await self._run(tenant, admitted.run_id)
        return pb.InvokeResponse(run=run, reattached=not admitted.created)

    async def AwaitRun(  # noqa: N802
        self,
        request: pb.AwaitRunRequest,
        _context: Context,
    ) -> pb.AwaitRunResponse:
        """Wait until a run ends."""
        tenant = current_tenant()
        run_id = parse_run_id(request.run_id)
        wait = wait_seconds(request)
        run = await self._run(tenant, run_id)
        if not run.HasField("outcome"):
            await self._waiters.ended(run_id, DEFAULT_WAIT_SECONDS if wait is None else wait)
            run = await self._run(tenant, run_id)
        return pb.AwaitRunResponse(run=run)

    async def Converse(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ConverseRequest],
        _context: Context,
    ) -> AsyncIterator[pb.ConverseResponse]:
        """Hold an interactive conversation with runs."""
        conversation = Conversation(
            db=self._db,
            door=self._door,
            followers=self._followers,
            stopping=self._stopping,
            tenant=current_tenant(),
            max_attempts=self._max_attempts,
        )
        async for response in conversation.hold(request_iterator):
            yield response

    async def WatchRun(  # noqa: N802
        self,
        request: pb.WatchRunRequest,
        _context: Context,
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """Stream a run's events until it ends."""
        wrong = Violations()
        run_id = wrong.run_id("run_id", request.run_id)
        for name in ("after_sequence", "after_epoch"):
            if getattr(request, name) < 0:
                wrong.add(name, "must not be negative")
        wrong.settle()
        assert run_id is not None  # settle() raised otherwise
        updates = self._followers.follow(
            current_tenant(), run_id, request.after_sequence, request.after_epoch
        )
        async for update in updates:
            if isinstance(update, transcript_pb2.RunEvent):
                yield pb.WatchRunResponse(event=update)
            else:
                yield pb.WatchRunResponse(rewound=update)

    async def GetRun(  # noqa: N802
        self,
        request: pb.GetRunRequest,
        _context: Context,
    ) -> pb.GetRunResponse:
        """Read a run."""
        return pb.GetRunResponse(run=await self._run(current_tenant(), parse_run_id(request.run_id)))

    async def ListRuns(  # noqa: N802
        self,
        request: pb.ListRunsRequest,
        _context: Context,
    ) -> pb.ListRunsResponse:
        """List the tenant's runs, newest first."""
        which, limit, after = list_filters(request)
        views, cursor = await list_runs(self._db, current_tenant(), which, limit=limit, after=after)
        return pb.ListRunsResponse(
            runs=[run_message(view, whole=False) for view in views],
            next_page_token="" if cursor is None else str(cursor),
        )

    async def CancelRun(  # noqa: N802
        self,
        request: pb.CancelRunRequest,
        _context: Context,
    ) -> pb.CancelRunResponse:
        """Ask a run to stop."""
        wrong = Violations()
        run_id = wrong.run_id("run_id", request.run_id)
        wrong.text("reason", request.reason, limit=MAX_REASON_BYTES)
        wrong.settle()
        assert run_id is not None  # settle() raised otherwise
        tenant = current_tenant()
        await self._stopping.cancel(tenant, run_id, request.reason)
        return pb.CancelRunResponse(run=await self._run(tenant, run_id))

    async def InterruptRun(  # noqa: N802
        self,
        _request: pb.InterruptRunRequest,
        _context: Context,
    ) -> pb.InterruptRunResponse:
        """Refuse: mailboxes come with the release that parks runs."""
        raise NotYetAvailable("InterruptRun is not served by this release; CancelRun is")

    async def SignalRun(  # noqa: N802
        self,
        _request: pb.SignalRunRequest,
        _context: Context,
    ) -> pb.SignalRunResponse:
        """Refuse: mailboxes come with the release that parks runs."""
        raise NotYetAvailable("SignalRun is not served by this release")

    async def RetryRun(  # noqa: N802
        self,
        request: pb.RetryRunRequest,
        _context: Context,
    ) -> pb.RetryRunResponse:
        """Start an ended run again from its recorded steps."""
        wrong = Violations()
        run_id = wrong.run_id("run_id", request.run_id)
        check_budget(request.budget, wrong)
        wrong.settle()
        assert run_id is not None  # settle() raised otherwise
        tenant = current_tenant()
        budget = request.budget
        moved = await retry.retry(
            self._db,
            tenant,
            run_id,
            Limits(
                deadline_ms=budget.deadline_ms,
                max_steps=budget.max_steps,
                max_tools=budget.max_tools,
                max_tokens=budget.max_tokens,
                max_context=budget.max_context,
            ),
        )
        self._caretaker.moved(moved)
        return pb.RetryRunResponse(run=await self._run(tenant, run_id))

    async def _run(self, tenant: str, run_id: uuid.UUID) -> run_pb2.Run:
        async with self._db.connection() as connection:
            return run_message(await inspect.get(connection, tenant, run_id))
