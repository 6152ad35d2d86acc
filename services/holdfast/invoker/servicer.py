"""Serves `InvokerService`: message to verb to message."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from holdfast.invoker.conversation import Conversation
from holdfast.invoker.envelope import (
    Violations,
    go_on_in_trace,
    named_run,
    named_session,
    read_envelope,
    wait_seconds,
)
from holdfast.invoker.listing import list_filters
from holdfast.invoker.operating import Operating
from holdfast.invoker.parts import Parts
from holdfast.invoker.signal import read_interrupt, read_signal
from holdfast.invoker.spawning import take_parent
from holdfast.invoker.view import (
    RUNG_MARK,
    admitted_view,
    pool_words,
    run_message,
    rungs,
    session_message,
)
from holdfast.kit.auth.capability import current_capability, demand_lease
from holdfast.kit.errors import CapabilityRefused
from holdfast.kit.rpc.person import caller
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.ledger import held, inspect, session, session_state, throttle
from holdfast.ledger.domain.status import ENDED, RunStatus
from holdfast.ledger.run_list import Cursor, list_runs
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import invoker_service_pb2_grpc, run_pb2, transcript_pb2

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_WAIT_SECONDS = 30.0
MAX_PAGE_BYTES = 2 * 1024 * 1024


class InvokerServicer(Operating, invoker_service_pb2_grpc.InvokerServiceServicer):
    """The door, and the windows onto what went through it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._db = parts.db

    async def Invoke(  # noqa: N802 - the contract's name
        self,
        request: pb.InvokeRequest,
        _context: Context,
    ) -> pb.InvokeResponse:
        """Start a run, or find the one its idempotency key stands for."""
        tenant, wrong = current_tenant(), Violations()
        parent = take_parent(request, wrong)
        go_on_in_trace(request)
        if parent is None and current_capability() is not None:
            raise CapabilityRefused("A runner starts children of the run it holds, and nothing else.")
        invocation = read_envelope(
            request,
            tenant=tenant,
            shape=run_pb2.SHAPE_SERVICE if parent is None else run_pb2.SHAPE_WORKER,
            max_attempts=self._parts.settings.max_attempts,
            wrong=wrong,
        )
        wait = wait_seconds(request, Violations())
        parent_epoch = 0
        if parent is None:
            admitted = await self._parts.door.admit(invocation)
        else:
            demand_lease(parent.run_id, parent.epoch)
            spawned = await self._parts.spawning.spawn(invocation, parent)
            admitted, parent_epoch = spawned.admitted, spawned.epoch
        view = None
        if wait and admitted.status not in ENDED:
            view = await self._parts.waiters.ended(
                admitted.run_id,
                wait,
                look=not admitted.created,
                or_handed_off=invocation.handoff is not None,
            )
        elif admitted.created and parent is None:
            view = admitted_view(invocation, admitted)
        run = run_message(view) if view is not None else await self._run(tenant, admitted.run_id)
        return pb.InvokeResponse(run=run, reattached=not admitted.created, parent_epoch=parent_epoch)

    async def AwaitRun(  # noqa: N802
        self,
        request: pb.AwaitRunRequest,
        _context: Context,
    ) -> pb.AwaitRunResponse:
        """Wait until a run ends."""
        tenant = current_tenant()
        wrong = Violations()
        asked = wait_seconds(request, wrong)
        run_id = named_run(request, wrong)
        run = await self._run(tenant, run_id)
        wait = DEFAULT_WAIT_SECONDS if asked is None else asked
        if wait and not run.HasField("outcome"):
            view = await self._parts.waiters.ended(run_id, wait, look=True)
            run = run_message(view) if view is not None else await self._run(tenant, run_id)
        return pb.AwaitRunResponse(run=run)

    async def Converse(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ConverseRequest],
        context: Context,
    ) -> AsyncIterator[pb.ConverseResponse]:
        """Hold an interactive conversation with runs."""
        conversation = Conversation(self._parts, current_tenant(), lambda: caller(context))
        async with aclosing(conversation.hold(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def WatchRun(  # noqa: N802
        self,
        request: pb.WatchRunRequest,
        _context: Context,
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """Stream a run's events until it ends."""
        wrong = Violations()
        wrong.not_negative("after_sequence", request.after_sequence)
        wrong.not_negative("after_epoch", request.after_epoch)
        run_id = named_run(request, wrong)
        followers = self._parts.followers
        follower = followers.follower(current_tenant(), run_id, request.after_sequence, request.after_epoch)
        async with aclosing(followers.follow(follower)) as updates:
            async for update in updates:
                if isinstance(update, transcript_pb2.Rewound):
                    yield pb.WatchRunResponse(rewound=update)
                elif isinstance(update, transcript_pb2.Snapshot):
                    yield pb.WatchRunResponse(snapshot=update)
                else:
                    for event in update:
                        yield pb.WatchRunResponse(event=event)

    async def GetRun(  # noqa: N802
        self,
        request: pb.GetRunRequest,
        _context: Context,
    ) -> pb.GetRunResponse:
        """Read a run."""
        run_id = named_run(request, Violations())
        async with self._db.connection() as connection:
            view = await inspect.get(connection, current_tenant(), run_id)
            unserved = view.status is RunStatus.QUEUED and not await session.serves(connection, view.pool)
            why = (
                await held.reason(connection, view.tenant, view.pool)
                or await throttle.reason(connection, view.tenant, view.user)
                if view.status is RunStatus.QUEUED
                else ""
            )
            degraded = await inspect.marked(connection, view.tenant, run_id, RUNG_MARK)
        run = run_message(view)
        run.held_back = why
        if unserved:
            run.waiting_for = pool_words(view.pool)
        return pb.GetRunResponse(run=run, degradations=rungs(str(run_id), degraded))

    async def ListRuns(  # noqa: N802
        self,
        request: pb.ListRunsRequest,
        _context: Context,
    ) -> pb.ListRunsResponse:
        """List the tenant's runs, newest first."""
        which, limit, after = list_filters(request)
        views, cursor = await list_runs(self._db, current_tenant(), which, limit=limit, after=after)
        runs: list[run_pb2.Run] = []
        size = 0
        for view in views:
            run = run_message(view, whole=False)
            size += run.ByteSize()
            if runs and size > MAX_PAGE_BYTES:  # the page must arrive; the rest is the next one's
                last = views[len(runs) - 1]
                cursor = Cursor(last.create_time, last.seq)
                break
            runs.append(run)
        return pb.ListRunsResponse(runs=runs, next_page_token="" if cursor is None else str(cursor))

    async def InterruptRun(  # noqa: N802
        self,
        request: pb.InterruptRunRequest,
        _context: Context,
    ) -> pb.InterruptRunResponse:
        """Hand urgent input to a run."""
        wrong = Violations()
        sent = read_interrupt(request, wrong)
        run_id = named_run(request, wrong)
        signal_id = await self._parts.mailroom.signal(current_tenant(), run_id, sent)
        return pb.InterruptRunResponse(signal_id=signal_id)

    async def SignalRun(  # noqa: N802
        self,
        request: pb.SignalRunRequest,
        _context: Context,
    ) -> pb.SignalRunResponse:
        """Put a message in a run's mailbox."""
        wrong = Violations()
        sent = read_signal(request, wrong)
        run_id = named_run(request, wrong)
        signal_id = await self._parts.mailroom.signal(current_tenant(), run_id, sent)
        return pb.SignalRunResponse(signal_id=signal_id)

    async def GetSession(  # noqa: N802
        self,
        request: pb.GetSessionRequest,
        _context: Context,
    ) -> pb.GetSessionResponse:
        """Read what the runs of a session hand on."""
        session_id = named_session(request.session_id)
        async with self._db.connection() as connection:
            view = await session_state.get(connection, current_tenant(), session_id)
        return pb.GetSessionResponse(session=session_message(view))

    async def DeleteSession(  # noqa: N802
        self,
        request: pb.DeleteSessionRequest,
        _context: Context,
    ) -> pb.DeleteSessionResponse:
        """Forget what a session holds."""
        await session_state.forget(self._db, current_tenant(), named_session(request.session_id))
        return pb.DeleteSessionResponse()
