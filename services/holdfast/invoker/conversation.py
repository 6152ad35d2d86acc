"""One conversation: the client starts or attaches, then speaks; runs follow each other, one at a time.

idle ──start | attach──▶ following ──run ended | handed off──▶ idle ──client closes──▶ over
│ cancel | input | interrupt | decide ──▶ following
└ client closes ──▶ following until the run ends ──▶ over
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from holdfast.invoker.answers import Answers, refused, signalled
from holdfast.invoker.deciding import check_decide
from holdfast.invoker.envelope import Violations, go_on_in_trace, read_envelope
from holdfast.invoker.follower import Follower, Update
from holdfast.invoker.parts import Parts
from holdfast.invoker.signal import Sent, read_input, read_interrupt
from holdfast.invoker.view import admitted_view, run_message
from holdfast.kit.errors import (
    InputRejected,
    MailboxFull,
    RunEnded,
    ShuttingDown,
    SignalIdReused,
    StreamProtocol,
)
from holdfast.kit.rpc.person import Caller
from holdfast.kit.telemetry.about import about_run
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import inspect
from holdfast.ledger.values import Admitted, RunView
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2, transcript_pb2

MAX_REASON_BYTES = 1000

_ANSWERED = pb.ConverseRequest()
"""No opening, but answers to tell."""
_REFUSALS = (RunEnded, SignalIdReused, MailboxFull, InputRejected)
"""What is wrong with one signal, and no reason to end the conversation."""

_log = logger("invoker")


class Conversation:
    """Holds one Converse stream of a tenant."""

    def __init__(self, parts: Parts, tenant: str, who: Callable[[], Caller]) -> None:
        """Take who talks; it is asked only where that matters, and raises InvalidField for nobody."""
        self._parts = parts
        self._tenant = tenant
        self._who = who
        # What opens a run waits here until the run before has ended.
        self._openings: asyncio.Queue[pb.ConverseRequest] = asyncio.Queue(maxsize=1)
        self._waiting_openings = 0
        self._followed = asyncio.Event()
        self._run_id: uuid.UUID | None = None
        self._admission: asyncio.Future[Admitted] | None = None
        self._cancel_if_left = False
        self._reader: asyncio.Task[None] | None = None
        self._answers = Answers()
        self._follower: Follower | None = None
        self._answers.added = self._knock

    async def hold(
        self, requests: AsyncIterator[pb.ConverseRequest]
    ) -> AsyncGenerator[pb.ConverseResponse, None]:
        """Answer what the client says until it has closed its side and its last run has ended."""
        self._reader = asyncio.create_task(self._read(requests), name="converse-reader")
        self._reader.add_done_callback(self._reader_done)
        try:
            while True:
                request = await self._opening()
                for answer in self._answers.take():
                    yield answer
                if request is None:
                    return
                if request is _ANSWERED:
                    continue
                async with aclosing(self._follow(request)) as responses:
                    async for response in responses:
                        yield response
                self._cancel_if_left = False
        finally:
            self._reader.cancel()
            self._answers.close()
            await asyncio.gather(self._reader, return_exceptions=True)
            if self._cancel_if_left and not self._parts.followers.leaving.is_set():
                # In a task of its own: this one is being cancelled.
                await asyncio.shield(asyncio.create_task(self._cancel_left()))

    async def _opening(self) -> pb.ConverseRequest | None:
        """Wait for the next start or attach, or answers to tell; None once the client has closed its side."""
        assert self._reader is not None  # hold() made it
        waiting = asyncio.create_task(self._openings.get())
        leaving = asyncio.create_task(self._parts.followers.leaving.wait())
        try:
            await asyncio.wait(
                {waiting, leaving, self._reader, self._answers.waiter()}, return_when=asyncio.FIRST_COMPLETED
            )
            if self._reader.done():
                self._reader.result()  # raises what was wrong with the client's messages
            if leaving.done():
                raise ShuttingDown("This invoker is ending; converse with another.")
            if waiting.done():
                return waiting.result()
            if not self._reader.done():
                return _ANSWERED
            return None if self._openings.empty() else self._openings.get_nowait()
        finally:
            waiting.cancel()
            leaving.cancel()

    async def _follow(self, request: pb.ConverseRequest) -> AsyncGenerator[pb.ConverseResponse, None]:
        """Open a run and pass on what happens in it, until it has ended."""
        view, reattached = await self._opened(request)
        after, epoch = request.attach.after_sequence, request.attach.after_epoch  # 0 for a start
        run_id = self._run_id = view.run_id
        self._waiting_openings -= 1
        self._followed.set()
        started = pb.ConverseStarted(run=run_message(view), reattached=reattached)
        yield pb.ConverseResponse(started=started)
        # A handoff from before is history; one that happens now lets the client go.
        interactive = not view.handed_off
        followers = self._parts.followers
        follower = self._follower = followers.follower(self._tenant, run_id, after, epoch)
        self._check_order()  # from here on it knocks
        for answer in self._answers.take():
            yield answer
        async with aclosing(followers.follow(follower)) as updates:
            async for update in updates:
                self._check_order()
                for answer in self._answers.take():
                    yield answer
                told, let_go = self._told(update, interactive=interactive)
                for response in told:
                    yield response
                if let_go:
                    break
        self._follower = None
        self._followed.clear()

    def _knock(self) -> None:
        """Have this look after its client's words: there is an answer to tell, or something wrong."""
        if self._follower is not None:
            self._follower.knock()

    def _reader_done(self, reader: asyncio.Task[None]) -> None:
        if not reader.cancelled() and reader.exception() is not None:
            self._knock()

    def _check_order(self) -> None:
        """Raise what was wrong with the client's messages, if they are over."""
        assert self._reader is not None  # hold() made it
        if self._reader.done():
            self._reader.result()

    def _told(self, update: Update, *, interactive: bool) -> tuple[list[pb.ConverseResponse], bool]:
        """Return how an update is told, and whether its handoff lets the client go.

        What follows a knock is nothing: the answers that it was for are told before.
        """
        if isinstance(update, transcript_pb2.Rewound):
            return [pb.ConverseResponse(rewound=update)], False
        if isinstance(update, transcript_pb2.Snapshot):
            return [pb.ConverseResponse(snapshot=update)], False
        events, let_go = _up_to_handoff(update) if interactive else (update, False)
        if let_go or (events and events[-1].HasField("ended")):
            self._followed.clear()  # what the client says to this is about the next run
        if let_go:
            self._cancel_if_left = False  # it may leave from here on
        return [pb.ConverseResponse(event=event) for event in events], let_go

    async def _opened(self, request: pb.ConverseRequest) -> tuple[RunView, bool]:
        """Return the run that is followed from here on, and whether it was there before."""
        view = None
        if request.WhichOneof("message") == "start":
            run_id, view = await self._start(request.start)
        else:
            run_id = await self._attach(request.attach)
        if view is not None:
            return view, False
        async with self._parts.db.connection() as connection:
            return await inspect.get(connection, self._tenant, run_id), True

    async def _start(self, start: pb.ConverseStart) -> tuple[uuid.UUID, RunView | None]:
        """Admit a run, and return it as it was admitted; only its id if an earlier call made it."""
        wrong = Violations("start.")
        if start.on_disconnect not in run_pb2.OnDisconnect.values():
            wrong.add("on_disconnect", "is not one of its values")
        go_on_in_trace(start.invocation)
        invocation = read_envelope(
            start.invocation,
            tenant=self._tenant,
            shape=run_pb2.SHAPE_SERVICE,
            max_attempts=self._parts.settings.max_attempts,
            wrong=wrong.within("invocation."),
        )
        about_run(invocation.run_id, invocation.correlation_id)
        self._cancel_if_left = start.on_disconnect == run_pb2.ON_DISCONNECT_CANCEL
        self._admission = asyncio.ensure_future(self._parts.door.admit(invocation))
        try:
            admitted = await asyncio.shield(self._admission)
        except Exception:
            self._cancel_if_left = False  # there is nothing to cancel
            raise
        return admitted.run_id, admitted_view(invocation, admitted) if admitted.created else None

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
            elif kind == "input":
                await self._signal(read_input(request.input, wrong := Violations("input.")), wrong)
            elif kind == "interrupt":
                await self._signal(
                    read_interrupt(request.interrupt, wrong := Violations("interrupt.")), wrong
                )
            elif kind == "decide":
                await self._decide(request.decide)
            else:
                raise StreamProtocol(
                    "the message is empty: say start, attach, input, interrupt, decide or cancel"
                )

    async def _cancel(self, message: pb.ConverseCancel) -> None:
        """Cancel the run that is followed, or the next; nothing if the last one has ended meanwhile."""
        wrong = Violations("cancel.")
        wrong.text("reason", message.reason, limit=MAX_REASON_BYTES)
        wrong.settle()
        run_id = await self._addressed("cancel")
        if self._followed.is_set():
            await self._parts.stopping.cancel(self._tenant, run_id, message.reason)

    async def _signal(self, sent: Sent, wrong: Violations) -> None:
        """Send a signal to the run that is followed, or the next, or the last one; tell what became of it."""
        wrong.settle()
        run_id = await self._addressed("speak to")
        try:
            signal_id = await self._parts.mailroom.signal(self._tenant, run_id, sent)
            answer = signalled(str(run_id), signal_id)
        except _REFUSALS as refusal:
            answer = refused(str(run_id), sent, refusal)
        await self._answers.put(answer)

    async def _decide(self, message: pb.ConverseDecide) -> None:
        """Decide an approval of the run that is followed, the next, or the last; tell what became of it."""
        check_decide(message, wrong := Violations("decide."))
        wrong.settle()
        run_id = await self._addressed("decide for")
        await self._answers.put(await self._parts.deciding.decide(self._tenant, run_id, self._who, message))

    async def _addressed(self, deed: str) -> uuid.UUID:
        """Return the run that the client's words are about; wait for it if it is about to be opened."""
        if self._waiting_openings or self._followed.is_set():
            await self._followed.wait()
        if self._run_id is None:
            raise StreamProtocol(f"there is no run to {deed}: start or attach first")
        return self._run_id

    async def _cancel_left(self) -> None:
        """Cancel the run whose client has left, also if it left during the admission."""
        try:
            assert self._admission is not None  # _start sets it first
            admitted = await self._admission
            await self._parts.stopping.cancel(self._tenant, admitted.run_id, "the client left")
        except Exception as error:  # noqa: BLE001 - nobody is left to be told; the run's own budget ends it
            _log.warning("run of a client that left not cancelled", error=type(error).__name__)


def _up_to_handoff(events: list[transcript_pb2.RunEvent]) -> tuple[list[transcript_pb2.RunEvent], bool]:
    """Return the events up to a handoff, and whether there is one."""
    for at, event in enumerate(events, 1):
        if event.HasField("handed_off"):
            return events[:at], True
    return events, False
