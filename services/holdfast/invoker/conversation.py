"""One conversation: the client starts or attaches, then speaks; runs follow each other, one at a time.

idle ──start | attach──▶ following ──run ended──▶ idle ──client closes──▶ over
│ cancel ──▶ following
└ client closes ──▶ following until the run ends ──▶ over
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

from holdfast.invoker.door import Door
from holdfast.invoker.envelope import Violations, read_envelope
from holdfast.invoker.follow import Followers
from holdfast.invoker.stopping import Stopping
from holdfast.invoker.view import run_message
from holdfast.kit.db import Database
from holdfast.kit.errors import NotYetAvailable, StreamProtocol
from holdfast.ledger import inspect
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2, transcript_pb2

MAX_REASON_BYTES = 1000


class Conversation:
    """Holds one Converse stream."""

    def __init__(
        self,
        *,
        db: Database,
        door: Door,
        followers: Followers,
        stopping: Stopping,
        tenant: str,
        max_attempts: int,
    ) -> None:
        self._db = db
        self._door = door
        self._followers = followers
        self._stopping = stopping
        self._tenant = tenant
        self._max_attempts = max_attempts
        self._run_id: uuid.UUID | None = None
        self._cancel_if_left = False
        self._next: asyncio.Queue[pb.ConverseRequest | None] = asyncio.Queue(maxsize=1)

    async def hold(self, requests: AsyncIterator[pb.ConverseRequest]) -> AsyncIterator[pb.ConverseResponse]:
        """Answer what the client says until it has closed its side and its last run has ended."""
        reader = asyncio.create_task(self._read(requests), name="converse-reader")
        try:
            while True:
                request = await self._opening(reader)
                if request is None:
                    return
                async for response in self._follow(request, reader):
                    yield response
                self._run_id = None
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader
            if self._run_id is not None and self._cancel_if_left:
                leaving = self._stopping.cancel(self._tenant, self._run_id, "the client left")
                await asyncio.shield(asyncio.create_task(leaving))

    async def _opening(self, reader: "asyncio.Task[None]") -> pb.ConverseRequest | None:
        """Wait for the next start or attach; None once the client has closed its side."""
        waiting = asyncio.ensure_future(self._next.get())
        try:
            await asyncio.wait({waiting, reader}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            reader.result()  # raises what was wrong with the client's messages
            return self._next.get_nowait() if not self._next.empty() else None
        finally:
            waiting.cancel()

    async def _follow(
        self, request: pb.ConverseRequest, reader: "asyncio.Task[None]"
    ) -> AsyncIterator[pb.ConverseResponse]:
        started, after, epoch = await self._start(request)
        yield pb.ConverseResponse(started=started)
        assert self._run_id is not None  # _start sets it
        updates = aiter(self._followers.follow(self._tenant, self._run_id, after, epoch))
        pending: asyncio.Future[transcript_pb2.RunEvent | transcript_pb2.Rewound] | None = None
        try:
            while True:
                pending = asyncio.ensure_future(anext(updates))
                if not reader.done():
                    await asyncio.wait({pending, reader}, return_when=asyncio.FIRST_COMPLETED)
                if reader.done():
                    reader.result()  # a message out of order ends the stream
                try:
                    update = await pending
                except StopAsyncIteration:
                    return
                if isinstance(update, transcript_pb2.RunEvent):
                    yield pb.ConverseResponse(event=update)
                else:
                    yield pb.ConverseResponse(rewound=update)
        finally:
            if pending is not None and not pending.done():
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await pending
            await updates.aclose()  # type: ignore[attr-defined]  # an async generator

    async def _start(self, request: pb.ConverseRequest) -> tuple[pb.ConverseStarted, int, int]:
        if request.WhichOneof("message") == "start":
            start = request.start
            invocation = read_envelope(
                start.invocation,
                tenant=self._tenant,
                shape=run_pb2.SHAPE_SERVICE,
                max_attempts=self._max_attempts,
                prefix="start.invocation.",
            )
            admitted = await self._door.admit(invocation)
            self._cancel_if_left = start.on_disconnect == run_pb2.ON_DISCONNECT_CANCEL
            return await self._started(admitted.run_id, reattached=not admitted.created), 0, 0
        attach = request.attach
        wrong = Violations("attach.")
        if attach.after_sequence < 0 or attach.after_epoch < 0:
            wrong.add("after_sequence", "must not be negative")
        if bool(attach.run_id) == bool(attach.idempotency_key):
            wrong.add("run_id", "or idempotency_key must be given, and not both")
        wrong.text("idempotency_key", attach.idempotency_key)
        run_id = wrong.run_id("run_id", attach.run_id) if attach.run_id else None
        wrong.settle()
        if run_id is None:
            async with self._db.connection() as connection:
                run_id = (await inspect.get_by_key(connection, self._tenant, attach.idempotency_key)).run_id
        self._cancel_if_left = False
        return await self._started(run_id, reattached=True), attach.after_sequence, attach.after_epoch

    async def _started(self, run_id: uuid.UUID, *, reattached: bool) -> pb.ConverseStarted:
        async with self._db.connection() as connection:
            view = await inspect.get(connection, self._tenant, run_id)
        self._run_id = run_id
        return pb.ConverseStarted(run=run_message(view), reattached=reattached)

    async def _read(self, requests: AsyncIterator[pb.ConverseRequest]) -> None:
        """Take the client's messages; one that opens a run waits until the one before has ended."""
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind in {"start", "attach"}:
                await self._next.put(request)
            elif kind == "cancel":
                await self._cancel(request.cancel)
            elif kind is None:
                raise StreamProtocol("the message is empty: say start, attach or cancel")
            else:
                raise NotYetAvailable(f"{kind} is not served by this release; start, attach and cancel are")

    async def _cancel(self, message: pb.ConverseCancel) -> None:
        wrong = Violations("cancel.")
        wrong.text("reason", message.reason, limit=MAX_REASON_BYTES)
        wrong.settle()
        if self._run_id is None:
            raise StreamProtocol("there is no run to cancel: start or attach first")
        await self._stopping.cancel(self._tenant, self._run_id, message.reason)
