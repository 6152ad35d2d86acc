"""The client of one tenant: invoke, follow, signal, cancel, publish, and look after the outbox.

async with Client("127.0.0.1:7401") as client:
    handle = await client.invoke("triage", {"ticket": 7})
    async with handle.watch() as events:
        async for event in events: …
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self, Unpack

import grpc

from holdfast.client.access import AccessControl
from holdfast.client.acting import Acted, Action, Which, act, which_message
from holdfast.client.approval import NOBODY, Approvals, Person
from holdfast.client.batches import Batches
from holdfast.client.channel import open_channel
from holdfast.client.conversation import Conversation
from holdfast.client.event import Cursor
from holdfast.client.handle import RunHandle
from holdfast.client.link import Link
from holdfast.client.number import OnDisconnect, Shape
from holdfast.client.outbox import Outbox
from holdfast.client.past import Past, past_of
from holdfast.client.publish import groups, published_of
from holdfast.client.refused_events import RefusedEvents
from holdfast.client.retry import Lost, Retries
from holdfast.client.run import Budget, Checkpoint, Invocation, Published, Run
from holdfast.client.schedules import Schedules
from holdfast.client.session import Sessions
from holdfast.client.signal import interrupt, signal
from holdfast.client.tenants import Tenants
from holdfast.client.tls import Tls, checked_token
from holdfast.client.watch import Watch
from holdfast.client.wire_run import budget_message, checkpoint_of, envelope, run_of
from holdfast.client.wire_value import duration_of, json_bytes
from holdfast.payload import PayloadCodec, Sealing, sealed_channel
from holdfast.v1 import (
    access_service_pb2_grpc,
    approval_service_pb2_grpc,
    batch_service_pb2_grpc,
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    invoker_service_pb2,
    invoker_service_pb2_grpc,
    outbox_service_pb2_grpc,
    run_pb2,
    schedule_service_pb2_grpc,
    tenant_service_pb2_grpc,
)

_LONGEST_WAIT_S: Final = 300.0  # of one AwaitRun; longer waits are several
_RETRIES: Final = Retries()
_RECONNECTS: Final = Retries(attempts=1000, longest_pause=2.0, patience=60.0)


class Client:
    """Speaks to the Invoker at `address` and, for the outbox, to the `dispatcher`; a context manager.

    Addresses are `host:port`, several of them as a sequence or joined by commas, or gRPC URIs: calls and
    streams go to those that live, in turn. Every call is made for `tenant`, by default that of the `token`,
    or `default` without one. `token` is an API token or a JWT, and proves who calls. With `tls`, or
    `credentials` of one's own, the channels use TLS. Calls that may be repeated are, as `retries` says, and
    streams are joined again as `reconnects` says; `timeout` seconds are given to each attempt of a call. With
    a `codec` payloads are sealed on their way out and opened on their way in: the services cannot read them.
    All failures are `HoldfastError`s.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        tenant: str | None = None,
        token: str = "",
        tls: Tls | None = None,
        dispatcher: str | Sequence[str] | None = None,
        checkpoint: str | Sequence[str] | None = None,
        approval: str | Sequence[str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        retries: Retries = _RETRIES,
        reconnects: Retries = _RECONNECTS,
        timeout: float = 15.0,
        codec: PayloadCodec | None = None,
    ) -> None:
        self.tenant = ("" if token else "default") if tenant is None else tenant
        self._addresses = {
            "invoker": address,
            "dispatcher": dispatcher,
            "checkpoint": checkpoint,
            "approval": approval,
        }
        self._sealing = Sealing(codec) if codec is not None else None
        self._credentials = tls.credentials() if tls is not None else credentials
        self._link = Link(self.tenant, retries, reconnects, timeout, checked_token(token))
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stub: invoker_service_pb2_grpc.InvokerServiceStub | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def show_token(self, token: str) -> None:
        """Show another token from the next call on; what is under way ends with the one it began with."""
        self._link = replace(self._link, token=checked_token(token))

    async def close(self) -> None:
        """Close the channels; calls in flight are cancelled. Repeatable."""
        channels, self._channels = self._channels, {}
        self._stub = None
        for channel in channels.values():
            await channel.close()

    @property
    def outbox(self) -> Outbox:
        """The outbox; the client needs the Dispatcher's address for it."""
        return Outbox(outbox_service_pb2_grpc.OutboxServiceStub(self._channel("dispatcher")), self._link)

    def approvals(self, person: Person = NOBODY) -> Approvals:
        """Return the approvals, decided as `person`; it needs the Approval service's address."""
        stub = approval_service_pb2_grpc.ApprovalServiceStub(self._channel("approval"))
        return Approvals(stub, self._link, person)

    @property
    def sessions(self) -> Sessions:
        """What the runs of sessions hand on to each other."""
        return Sessions(self._invoker, self._link)

    @property
    def schedules(self) -> Schedules:
        """Runs that start by themselves."""
        return Schedules(schedule_service_pb2_grpc.ScheduleServiceStub(self._channel("invoker")), self._link)

    @property
    def batches(self) -> Batches:
        """Many items over one intent."""
        return Batches(batch_service_pb2_grpc.BatchServiceStub(self._channel("invoker")), self._link)

    @property
    def tenants(self) -> Tenants:
        """What tenants may do, and how they fare; calls of an operator."""
        return Tenants(tenant_service_pb2_grpc.TenantServiceStub(self._channel("invoker")), self._link)

    @property
    def access(self) -> AccessControl:
        """Who the server takes us for, the tokens by which programs call, and the audit."""
        return AccessControl(access_service_pb2_grpc.AccessServiceStub(self._channel("invoker")), self._link)

    async def invoke(
        self,
        intent: str,
        payload: Mapping[str, Any] | None = None,
        *,
        budget: Budget | None = None,
        idempotency_key: str | None = None,
        wait: timedelta | float | None = None,
        run_id: str = "",
        user: str = "",
        correlation_id: str = "",
        shape: Shape = Shape.UNSPECIFIED,
        ordering_key: str = "",
        priority: int = 0,
        session_id: str = "",
        handoff: Budget | None = None,
        not_before: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        agent_version: str = "",
    ) -> RunHandle:
        """Start a run, or find the one its idempotency key stands for.

        Runs of one session execute one at a time, as those of one ordering key; a run has one of the two.
        Without a key (or a run id, which then is the key) one is made, so that a repeated call starts nothing
        twice. `wait` (seconds, at most an hour) answers when the run has ended, or after that long; with
        `handoff`, the budget under which it may go on in the background, also when it has moved there.
        """
        invocation = Invocation(
            intent=intent,
            payload=payload,
            idempotency_key=idempotency_key or "",
            run_id=run_id,
            user=user,
            budget=budget,
            correlation_id=correlation_id,
            shape=shape,
            ordering_key=ordering_key,
            priority=priority,
            session_id=session_id,
            handoff=handoff,
            not_before=not_before,
            labels=labels or {},
            agent_version=agent_version,
        )
        return await self.send(invocation, wait=wait)

    async def send(
        self, invocation: Invocation | Mapping[str, Any], *, wait: timedelta | float | None = None
    ) -> RunHandle:
        """Do the same with a whole envelope, or its JSON form."""
        request = envelope(invocation)
        _ensure_key(request)
        seconds = 0.0
        if wait is not None:
            seconds = wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
            request.wait.CopyFrom(duration_of(seconds))
        elif request.HasField("wait"):
            seconds = float(request.wait.seconds)
        response = await self._link.call(self._invoker.Invoke, request, wait=seconds)
        return RunHandle(self, run_of(response.run), reattached=response.reattached)

    async def get_run(self, run_id: str) -> Run:
        """Return a run as it stands."""
        request = invoker_service_pb2.GetRunRequest(run_id=run_id)
        response = await self._link.call(self._invoker.GetRun, request)
        return run_of(response.run, response.degradations)

    async def await_run(self, run_id: str, *, patience: float | None = None) -> Run:
        """Wait until a run has ended and return it; `TimeoutError` after `patience` seconds."""
        loop = asyncio.get_running_loop()
        give_up = None if patience is None else loop.time() + patience
        while True:
            wait = (
                _LONGEST_WAIT_S
                if give_up is None
                else min(_LONGEST_WAIT_S, max(0.001, give_up - loop.time()))
            )
            request = invoker_service_pb2.AwaitRunRequest(run_id=run_id, wait=duration_of(wait))
            run = run_of((await self._link.call(self._invoker.AwaitRun, request, wait=wait)).run)
            if run.is_ended:
                return run
            if give_up is not None and loop.time() >= give_up:
                raise TimeoutError(
                    f"Run {run_id} has not ended within {patience} s; it is {run.status.name}."
                )

    async def list_runs(self, *, page_size: int = 100, **which: Unpack[Which]) -> AsyncIterator[Run]:
        """Yield the runs that match, newest first, without payload and result, page by page."""
        request = which_message(**which)
        request.page_size = page_size
        while True:
            page = await self._link.call(self._invoker.ListRuns, request)
            for run in page.runs:
                yield run_of(run)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def page_of_runs(
        self, *, page_token: str = "", page_size: int = 50, **which: Unpack[Which]
    ) -> tuple[list[Run], str]:
        """Return a page of what `list_runs` yields, and the token of the next; empty if it is the last."""
        request = which_message(**which)
        request.page_size, request.page_token = page_size, page_token
        page = await self._link.call(self._invoker.ListRuns, request)
        return [run_of(run) for run in page.runs], page.next_page_token

    def watch(
        self, run_id: str, after_sequence: int = 0, after_epoch: int = 0, *, on_lost: Lost | None = None
    ) -> Watch:
        """Follow a run's events after a sequence, until it has ended.

        `after_epoch` is the `epoch` of the event at the cursor; without it the cursor is taken as committed.
        `on_lost` is told why a connection broke, each time before it is made anew.
        """
        return Watch(self._invoker, self._link, run_id, Cursor(after_sequence, after_epoch), on_lost)

    def converse(
        self,
        intent: str | Invocation | Mapping[str, Any],
        payload: Mapping[str, Any] | None = None,
        *,
        on_disconnect: OnDisconnect = OnDisconnect.UNSPECIFIED,
        on_lost: Lost | None = None,
    ) -> Conversation:
        """Start a run, by its intent and payload or a whole envelope, and follow it on a stream both ways.

        `on_lost` is told why a connection broke, each time before it is made anew.
        """
        request = envelope(Invocation(intent, payload) if isinstance(intent, str) else intent)
        _ensure_key(request)
        start = invoker_service_pb2.ConverseStart(
            invocation=request, on_disconnect=run_pb2.OnDisconnect.ValueType(on_disconnect)
        )
        opening = invoker_service_pb2.ConverseRequest(start=start)
        return Conversation(
            self._invoker, self._link, opening, Cursor(), approvals=self.approvals, lost=on_lost
        )

    def attach(
        self,
        run_id: str = "",
        *,
        idempotency_key: str = "",
        after_sequence: int = 0,
        after_epoch: int = 0,
        on_lost: Lost | None = None,
    ) -> Conversation:
        """Follow a run that exists, by its id or its key, on a stream both ways."""
        attach = invoker_service_pb2.ConverseAttach(
            run_id=run_id,
            idempotency_key=idempotency_key,
            after_sequence=after_sequence,
            after_epoch=after_epoch,
        )
        opening = invoker_service_pb2.ConverseRequest(attach=attach)
        cursor = Cursor(after_sequence, after_epoch)
        return Conversation(
            self._invoker, self._link, opening, cursor, approvals=self.approvals, lost=on_lost
        )

    async def cancel(self, run_id: str, reason: str = "") -> Run:
        """Ask a run to stop; returns it as it stands. Cancelling an ended run changes nothing."""
        request = invoker_service_pb2.CancelRunRequest(run_id=run_id, reason=reason)
        return run_of((await self._link.call(self._invoker.CancelRun, request)).run)

    async def pause(self, run_id: str, reason: str = "") -> Run:
        """Hold a run: no runner executes it until `resume`; a running one stops before its next step.

        Its deadline goes on counting. Raises `RunEnded`.
        """
        request = invoker_service_pb2.PauseRunRequest(run_id=run_id, reason=reason)
        return run_of((await self._link.call(self._invoker.PauseRun, request)).run)

    async def resume(self, run_id: str) -> Run:
        """Let a paused run go on, within about a second. Raises `RunEnded`."""
        request = invoker_service_pb2.ResumeRunRequest(run_id=run_id)
        return run_of((await self._link.call(self._invoker.ResumeRun, request)).run)

    def act_on_runs(
        self,
        action: Action,
        *,
        apply: bool = False,
        reason: str = "",
        limit: int = 0,
        max_per_second: float = 0.0,
        **which: Unpack[Which],
    ) -> AsyncIterator[Acted]:
        """Do one thing with all runs that match, newest first; yield how far it has come.

        Without `apply` nothing is done: the answers say which runs it would be. `limit` is 1,000 if it is
        left at 0. Broken off, it may be called again: what is done is not done twice.
        """
        request = invoker_service_pb2.ActOnRunsRequest(
            which=which_message(**which),
            action=invoker_service_pb2.RunAction.Value(f"RUN_ACTION_{action.upper()}"),
            apply=apply,
            reason=reason,
            limit=limit,
            max_per_second=max_per_second,
        )
        return act(self._invoker, self._link, request)

    async def signal(self, run_id: str, key: str, payload: Any = None, *, signal_id: str = "") -> str:
        """Put a message in a run's mailbox under a key; durable when this returns its id.

        The agent gets it by `run.receive(key)`. Without a `signal_id` one is made: the call is repeated under
        it, and sends nothing twice. Raises `RunEnded`, `MailboxFull`, `InputRejected`, `SignalIdReused`.
        """
        return await signal(self._invoker, self._link, run_id, key=key, payload=payload, signal_id=signal_id)

    async def interrupt(self, run_id: str, payload: Any = None, *, signal_id: str = "") -> str:
        """Hand urgent input to a run: it cancels a step in flight that is interruptible; else as `signal`."""
        return await interrupt(self._invoker, self._link, run_id, payload=payload, signal_id=signal_id)

    async def retry(self, run_id: str, *, budget: Budget | None = None) -> Run:
        """Start an ended run again from its recorded steps.

        Not repeated by itself: a second call would find the run queued and be refused.
        """
        request = invoker_service_pb2.RetryRunRequest(run_id=run_id, budget=budget_message(budget))
        return run_of((await self._link.call(self._invoker.RetryRun, request, repeatable=False)).run)

    async def publish(self, events: Iterable[Invocation | Mapping[str, Any]]) -> list[Published]:
        """Publish events, each an envelope with the event's own idempotency key; answers come in order.

        Sent in groups that the contract allows; a failure in the middle leaves the groups before it accepted,
        and the whole call may be repeated.
        """
        stub = event_service_pb2_grpc.EventServiceStub(self._channel("invoker"))
        answers: list[Published] = []
        for group in groups([envelope(event) for event in events]):
            request = event_service_pb2.PublishEventsRequest(events=group)
            response = await self._link.call(stub.PublishEvents, request)
            answers += [published_of(result) for result in response.results]
        return answers

    @property
    def refused_events(self) -> RefusedEvents:
        """What services staged in the ledger's database and could not become runs."""
        return RefusedEvents(event_service_pb2_grpc.EventServiceStub(self._channel("invoker")), self._link)

    async def list_checkpoints(self, run_id: str, *, page_size: int = 100) -> AsyncIterator[Checkpoint]:
        """Yield a run's recorded steps in order; the client needs the Checkpoint service's address for it."""
        stub = checkpoint_service_pb2_grpc.CheckpointServiceStub(self._channel("checkpoint"))
        request = checkpoint_service_pb2.ListCheckpointsRequest(run_id=run_id, page_size=page_size)
        while True:
            page = await self._link.call(stub.ListCheckpoints, request)
            for checkpoint in page.checkpoints:
                yield checkpoint_of(checkpoint)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def past(self, run_id: str) -> Past:
        """Return what a run has recorded, whole, for a replay; empty once that is no longer retained.

        Of a run that goes on it is what was recorded until now. The client needs the Checkpoint service's
        address for it. Raises `RunNotFound`.
        """
        stub = checkpoint_service_pb2_grpc.CheckpointServiceStub(self._channel("checkpoint"))
        past = await past_of(stub, self._link, run_id)
        if self._sealing is None:
            return past
        return replace(past, records=tuple(map(self._sealing.opened_record, past.records)))

    async def fork(
        self,
        run_id: str,
        position: int,
        *,
        outputs: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> RunHandle:
        """Start a new run with a run's recorded steps up to the checkpoint at `position`.

        `outputs` replace what kept steps returned, by their keys. Effects staged until then are not sent
        again. Without a key one is made, so that a repeated call starts nothing twice. The client needs the
        Checkpoint service's address for it. Raises `InvalidField`, `RunNotFound`, `RunNotForkable`.
        """
        stub = checkpoint_service_pb2_grpc.CheckpointServiceStub(self._channel("checkpoint"))
        request = checkpoint_service_pb2.ForkRunRequest(
            run_id=run_id,
            position=position,
            outputs={key: json_bytes(value) for key, value in (outputs or {}).items()},
            idempotency_key=idempotency_key or str(uuid.uuid4()),
        )
        response = await self._link.call(stub.ForkRun, request)
        return RunHandle(self, run_of(response.run), reattached=response.reattached)

    @property
    def _invoker(self) -> invoker_service_pb2_grpc.InvokerServiceStub:
        if self._stub is None:
            self._stub = invoker_service_pb2_grpc.InvokerServiceStub(self._channel("invoker"))
        return self._stub

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            address = self._addresses[service]
            if address is None:
                raise ValueError(f"This client was not told the {service}'s address.")
            self._channels[service] = sealed_channel(open_channel(address, self._credentials), self._sealing)
        return self._channels[service]


def _ensure_key(request: invoker_service_pb2.InvokeRequest) -> None:
    """See that the call can be repeated: the run id is the key where there is no other."""
    if not request.idempotency_key and not request.run_id:
        request.idempotency_key = str(uuid.uuid4())
