"""One conversation: the client starts or attaches, then speaks; runs follow each other, one at a time.

idle ──start | attach──▶ following ──run ended | handed off──▶ idle ──client closes──▶ over
│ cancel ──▶ following
└ client closes ──▶ following until the run ends ──▶ over
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from holdfast.invoker.envelope import Violations, read_envelope
from holdfast.invoker.parts import Parts
from holdfast.invoker.view import run_message
from holdfast.kit.errors import NotYetAvailable, ShuttingDown, StreamProtocol
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import inspect
from holdfast.ledger.values import Admitted
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2, transcript_pb2

MAX_REASON_BYTES = 1000

_log = logger("invoker")

T = TypeVar("T")


class Conversation:
    """Holds one Converse stream of a tenant."""

    def __init__(self, parts: Parts, tenant: str) -> None:
        self._parts = parts
        self._tenant = tenant
        # What opens a run waits here until the run before has ended.
        self._openings: asyncio.Queue[pb.ConverseRequest] = asyncio.Queue(maxsize=1)
        self._waiting_openings = 0
        self._followed = asyncio.Event()
        self._run_id: uuid.UUID | None = None
        self._admission: asyncio.Future[Admitted] | None = None
        self._cancel_if_left = False
        self._reader: asyncio.Task[None] | None = None

    async def hold(
        self, requests: AsyncIterator[pb.ConverseRequest]
    ) -> AsyncGenerator[pb.ConverseResponse, None]:
        """Answer what the client says until it has closed its side and its last run has ended."""
        self._reader = asyncio.create_task(self._read(requests), name="converse-reader")
        try:
            while (request := await self._opening()) is not None:
                async with aclosing(self._follow(request)) as responses:
                    async for response in responses:
                        yield response
                self._cancel_if_left = False
        finally:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            if self._cancel_if_left and not self._parts.followers.leaving.is_set():
                # In a task of its own: this one is being cancelled.
                await asyncio.shield(asyncio.create_task(self._cancel_left()))

    async def _opening(self) -> pb.ConverseRequest | None:
        """Wait for the next start or attach; None once the client has closed its side."""
        assert self._reader is not None  # hold() made it
        waiting = asyncio.create_task(self._openings.get())
        leaving = asyncio.create_task(self._parts.followers.leaving.wait())
        try:
            await asyncio.wait({waiting, leaving, self._reader}, return_when=asyncio.FIRST_COMPLETED)
            if self._reader.done():
                self._reader.result()  # raises what was wrong with the client's messages
            if leaving.done():
                raise ShuttingDown("This invoker is ending; converse with another.")
            if waiting.done():
                return waiting.result()
            return None if self._openings.empty() else self._openings.get_nowait()
        finally:
            waiting.cancel()
            leaving.cancel()

    async def _follow(self, request: pb.ConverseRequest) -> AsyncGenerator[pb.ConverseResponse, None]:
        """Open a run and pass on what happens in it, until it has ended."""
        if request.WhichOneof("message") == "start":
            run_id, reattached = await self._start(request.start)
            after, epoch = 0, 0
        else:
            run_id, reattached = await self._attach(request.attach), True
            after, epoch = request.attach.after_sequence, request.attach.after_epoch
        async with self._parts.db.connection() as connection:
            view = await inspect.get(connection, self._tenant, run_id)
        self._run_id = run_id
        self._waiting_openings -= 1
        self._followed.set()
        started = pb.ConverseStarted(run=run_message(view), reattached=reattached)
        yield pb.ConverseResponse(started=started)
        # A handoff from before is history; one that happens now lets the client go.
        interactive = not view.handed_off
        async with aclosing(self._parts.followers.follow(self._tenant, run_id, after, epoch)) as updates:
            while (update := await self._while_in_order(anext(updates, None))) is not None:
                if isinstance(update, transcript_pb2.Rewound):
                    yield pb.ConverseResponse(rewound=update)
                    continue
                if isinstance(update, transcript_pb2.Snapshot):
                    yield pb.ConverseResponse(snapshot=update)
                    continue
                told, let_go = _told(update) if interactive else (update, False)
                if let_go or told[-1].HasField("ended"):
                    self._followed.clear()  # what the client says to this is about the next run
                if let_go:
                    self._cancel_if_left = False  # it may leave from here on
                for event in told:
                    yield pb.ConverseResponse(event=event)
                if let_go:
                    break
        self._followed.clear()

    async def _start(self, start: pb.ConverseStart) -> tuple[uuid.UUID, bool]:
        wrong = Violations("start.")
        if start.on_disconnect not in run_pb2.OnDisconnect.values():
            wrong.add("on_disconnect", "is not one of its values")
        invocation = read_envelope(
            start.invocation,
            tenant=self._tenant,
            shape=run_pb2.SHAPE_SERVICE,
            max_attempts=self._parts.settings.max_attempts,
            wrong=wrong.within("invocation."),
        )
        self._cancel_if_left = start.on_disconnect == run_pb2.ON_DISCONNECT_CANCEL
        self._admission = asyncio.ensure_future(self._parts.door.admit(invocation))
        try:
            admitted = await asyncio.shield(self._admission)
        except Exception:
            self._cancel_if_left = False  # there is nothing to cancel
            raise
        return admitted.run_id, not admitted.created

    async def _attach(self, attach: pb.ConverseAttach) -> uuid.UUID:
        wrong = Violations("attach.")
        wrong.not_negative("after_sequence", attach.after_sequence)
        wrong.not_negative("after_epoch", attach.after_epoch)
        if bool(attach.run_id) == bool(attach.idempotency_key):
            wrong.add("run_id", "or idempotency_key must be given, and not both")
        wrong.text("idempotency_key", attach.idempotency_key)
        run_id = wrong.run_id("run_id", attach.run_id) if attach.run_id else None
        wrong.settle()
        if run_id is not None:
            return run_id
        async with self._parts.db.connection() as connection:
            return (await inspect.get_by_key(connection, self._tenant, attach.idempotency_key)).run_id

    async def _read(self, requests: AsyncIterator[pb.ConverseRequest]) -> None:
        """Take the client's messages; one that opens a run waits until the one before has ended."""
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind in {"start", "attach"}:
                self._waiting_openings += 1
                await self._openings.put(request)
            elif kind == "cancel":
                await self._cancel(request.cancel)
            elif kind is None:
                raise StreamProtocol("the message is empty: say start, attach or cancel")
            else:
                raise NotYetAvailable(f"{kind} is not served by this release; start, attach and cancel are.")

    async def _cancel(self, message: pb.ConverseCancel) -> None:
        """Cancel the run that is followed, or the next; nothing if the last one has ended meanwhile."""
        wrong = Violations("cancel.")
        wrong.text("reason", message.reason, limit=MAX_REASON_BYTES)
        wrong.settle()
        if not self._waiting_openings and not self._followed.is_set():
            if self._run_id is None:
                raise StreamProtocol("there is no run to cancel: start or attach first")
            return
        await self._followed.wait()
        assert self._run_id is not None  # _follow sets it first
        await self._parts.stopping.cancel(self._tenant, self._run_id, message.reason)

    async def _cancel_left(self) -> None:
        """Cancel the run whose client has left, also if it left during the admission."""
        try:
            assert self._admission is not None  # _start sets it first
            admitted = await self._admission
            await self._parts.stopping.cancel(self._tenant, admitted.run_id, "the client left")
        except Exception as error:  # noqa: BLE001 - nobody is left to be told; the run's own budget ends it
            _log.warning("run of a client that left not cancelled", error=type(error).__name__)

    async def _while_in_order(self, work: Awaitable[T]) -> T:
        """Await the next update, or raise what is wrong with the client's messages meanwhile."""
        assert self._reader is not None  # hold() made it
        pending = asyncio.ensure_future(work)
        try:
            while not pending.done():
                waits = {pending} if self._reader.done() else {pending, self._reader}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if self._reader.done():
                    self._reader.result()
            return pending.result()
        finally:
            if not pending.done():
                pending.cancel()
                await asyncio.wait([pending])  # else the generator below could not be closed


def _told(events: list[transcript_pb2.RunEvent]) -> tuple[list[transcript_pb2.RunEvent], bool]:
    """Return the events up to a handoff, and whether there is one."""
    for at, event in enumerate(events, 1):
        if event.HasField("handed_off"):
            return events[:at], True
    return events, False
