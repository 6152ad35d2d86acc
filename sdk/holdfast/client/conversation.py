"""A conversation starts a run, or joins one, and speaks both ways until the run has ended.

opening ──started──▶ following ──ended | handed off──▶ over
                        │ ▲ connection lost: attach from the cursor
                        └─┘
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from holdfast.client.approval import NOBODY, Approval, Approvals, Person
from holdfast.client.errors import HoldfastError, Unavailable
from holdfast.client.event import Cursor, Event, Started, Update
from holdfast.client.link import Link
from holdfast.client.retry import Lost
from holdfast.client.run import Run
from holdfast.client.signal import interrupt, signal
from holdfast.client.stream import Stream
from holdfast.client.wire_run import run_of, update_of
from holdfast.v1 import invoker_service_pb2, invoker_service_pb2_grpc


class Conversation(Stream[Started | Update]):
    """One run on a stream both ways: `async with client.converse(…) as talk: async for update in talk: …`.

    The first update is `Started`. A connection that breaks is made anew: the run is found by its id, or, if
    not even that had come back, by starting it again under the same idempotency key. Leaving the block ends
    the stream; what that means for the run is what `on_disconnect` said. A run that moves to the background
    meanwhile ends the conversation and goes on: `handed_off` is true then, and `Client.watch` follows it from
    the cursor. One that had moved before is followed to its end.
    """

    def __init__(
        self,
        stub: invoker_service_pb2_grpc.InvokerServiceStub,
        link: Link,
        opening: invoker_service_pb2.ConverseRequest,
        cursor: Cursor,
        *,
        approvals: Callable[[Person], Approvals],
        lost: Lost | None = None,
    ) -> None:
        super().__init__(link, lost)
        self.cursor = cursor
        self._approvals = approvals
        self.run: Run | None = None
        self._stub = stub
        self._opening = opening
        self._connected = False
        self.handed_off = False
        self._interactive = True
        self._known = 0  # so far the transcript reached when the stream began

    async def cancel(self, reason: str = "") -> None:
        """Ask the run to stop; its end comes as an event. Works while the stream is broken, too."""
        request = invoker_service_pb2.CancelRunRequest(run_id=self._named("cancel"), reason=reason)
        message = invoker_service_pb2.ConverseCancel(reason=reason)
        try:
            await self._write(invoker_service_pb2.ConverseRequest(cancel=message))
        except HoldfastError:
            await self._link.call(self._stub.CancelRun, request)

    async def input(self, payload: Any, key: str = "input", *, signal_id: str = "") -> str:
        """Give the run input, under a mailbox key; durable when this returns its id. See `Client.signal`.

        A call of its own beside the stream: its answer needs nobody who reads the stream meanwhile, and
        under its id it is repeated whatever breaks. So no input is lost, and none arrives twice.
        """
        run_id = self._named("speak to")
        return await signal(self._stub, self._link, run_id, key=key, payload=payload, signal_id=signal_id)

    async def interrupt(self, payload: Any, *, signal_id: str = "") -> str:
        """Give the run urgent input; durable when this returns its id. See `Client.interrupt`."""
        run_id = self._named("interrupt")
        return await interrupt(self._stub, self._link, run_id, payload=payload, signal_id=signal_id)

    async def decide(
        self, approval_id: str, *, approved: bool, reason: str = "", person: Person = NOBODY
    ) -> Approval:
        """Decide an approval the run waits for, as a person; durable when this returns how it stands.

        A call of its own beside the stream, as `input` is; raises as `Approvals.approve`.
        """
        approvals = self._approvals(person)
        if approved:
            return await approvals.approve(approval_id, reason)
        return await approvals.deny(approval_id, reason)

    @property
    def _over(self) -> bool:
        return self.handed_off or self.cursor.ended

    async def _read(self) -> Started | Update | None:
        if self._call is None:
            self._call = self._stub.Converse(metadata=self._link.metadata)
            with suppress(asyncio.InvalidStateError):  # the call is over already: reading says why
                await self._call.write(self._greeting())
            self._connected = True
        message = await self._call.read()
        if message is grpc.aio.EOF:  # before the run's end, and we have not closed our side
            self._hang_up()
            await self._repetition.pause(Unavailable("The server ended the conversation."))
            return None
        self._repetition.forget()
        if message.WhichOneof("update") == "started":
            return self._started(message.started)
        update = update_of(message)
        if update is not None:
            self.cursor.move(update)
            if self._interactive and isinstance(update, Event) and update.kind == "handed_off":
                self.handed_off = True
            if self.cursor.sequence < self._known:
                self.cursor.ended = False  # that end was before a retry
        return update

    def _started(self, message: invoker_service_pb2.ConverseStarted) -> Started | None:
        again = self.run is not None
        if not again:
            self._interactive = not message.run.handed_off
        self.run = run_of(message.run)
        self._known = self.run.last_sequence
        # An ended run of which nothing is missing has no event left to say so.
        self.cursor.ended = self.run.is_ended and self.run.last_sequence <= self.cursor.sequence
        return None if again else Started(self.run, message.reattached)

    def _greeting(self) -> invoker_service_pb2.ConverseRequest:
        if self.run is None:
            return self._opening
        attach = invoker_service_pb2.ConverseAttach(
            run_id=self.run.run_id, after_sequence=self.cursor.sequence, after_epoch=self.cursor.epoch
        )
        return invoker_service_pb2.ConverseRequest(attach=attach)

    def _named(self, deed: str) -> str:
        if self.run is None:
            raise RuntimeError(f"There is no run to {deed} yet: wait for Started.")
        return self.run.run_id

    async def _write(self, request: invoker_service_pb2.ConverseRequest) -> None:
        call = self._call
        if call is None or self._closed or not self._connected:
            raise Unavailable("The conversation is not connected now.")
        try:
            await call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as failure:
            raise Unavailable("The conversation lost its connection.") from failure

    def _hang_up(self) -> None:
        self._connected = False
        super()._hang_up()
