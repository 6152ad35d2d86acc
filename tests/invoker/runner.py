"""A runner that does what a test says: real streams to Invoker and Checkpoint, its own `RunnerService`."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.server import Registration, Server
from holdfast.v1 import checkpoint_pb2, checkpoint_service_pb2, run_pb2, transcript_pb2, work_service_pb2
from holdfast.v1 import runner_service_pb2 as attach
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from holdfast.v1.runner_service_pb2_grpc import RunnerServiceServicer, add_RunnerServiceServicer_to_server
from holdfast.v1.work_service_pb2_grpc import WorkServiceStub
from tests.kit.until import until


class Held:
    """A run on the runner: what it has shown, and how much of that is committed."""

    def __init__(self, assignment: work_service_pb2.Assignment) -> None:
        self.run_id = assignment.run_id
        self.epoch = assignment.epoch
        self.assignment = assignment
        self.first = assignment.last_sequence + 1
        self.number = assignment.last_commit
        self.events: list[transcript_pb2.RunEvent] = []
        self.committed = assignment.last_sequence
        self.changed = asyncio.Event()
        self.over = False

    def show(self, *texts: str) -> None:
        """Let events happen, live and not committed."""
        for text in texts:
            self._add(said=transcript_pb2.Said(text=text))

    def show_end(self, outcome: run_pb2.Outcome) -> None:
        """Let the end happen, live and not committed."""
        self._add(ended=transcript_pb2.RunEnded(outcome=outcome))

    def after(self, sequence: int) -> list[transcript_pb2.RunEvent]:
        """Return what happened after a sequence."""
        return self.events[max(0, sequence + 1 - self.first) :]

    def _add(self, **event: Any) -> None:
        sequence = self.first + len(self.events)
        made = transcript_pb2.RunEvent(
            run_id=self.run_id,
            sequence=sequence,
            attempt=self.assignment.attempt,
            epoch=self.epoch,
            **event,
        )
        made.time.GetCurrentTime()
        self.events.append(made)
        self.wake()

    def wake(self) -> None:
        """Let the streams look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Runner(RunnerServiceServicer):
    """A runner with a session; `die` is sudden, `leave` is polite."""

    def __init__(self, invoker_address: str, checkpoint_address: str, intents: Sequence[str]) -> None:
        self.runner_id = str(uuid.uuid4())
        self.invoker_address = invoker_address
        self.intents = intents
        self.max_concurrent = 0
        self.critical: Sequence[str] = ()
        self.held: dict[str, Held] = {}
        self.told: list[work_service_pb2.Assignment] = []
        self.cancels: list[str] = []
        self.paused: list[str] = []
        self.revoked: list[str] = []
        self.signals: list[tuple[str, int]] = []  # over the lease stream
        self.attach_signals: list[attach.AttachSignal] = []  # over the live link
        self.on_input = work_service_pb2.INPUT_POLICY_UNSPECIFIED
        self.draining = False
        self.attached = 0
        self.code: grpc.StatusCode | None = None
        self.beating = True
        self.attachable = True
        self._checkpoint_address = checkpoint_address
        self._server: Server | None = None
        self._work: Any = None
        self._writing = asyncio.Lock()  # grpc takes one write at a time on a stream
        self._work_channel: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._commits: Any = None
        self._commit_channel: Any = None

    async def start(self, slots: int = 0) -> None:
        """Serve, open the session, and give credit."""
        registration = Registration(add_RunnerServiceServicer_to_server, self, "holdfast.v1.RunnerService")
        self._server = Server([registration], "127.0.0.1:0")
        await self._server.start()
        self._commit_channel = channel(self._checkpoint_address)
        self._commits = CheckpointServiceStub(self._commit_channel).Commit()
        await self.connect(slots)

    async def connect(self, slots: int = 0) -> None:
        """Open the session, or open it again."""
        assert self._server is not None
        self._work_channel = channel(self.invoker_address)
        self._work = WorkServiceStub(self._work_channel).Lease()
        self.code = None
        hello = work_service_pb2.RunnerHello(
            runner_id=self.runner_id,
            address=self._server.address if self.attachable else "",
            intents=[
                work_service_pb2.ServedIntent(
                    intent=intent,
                    agent_version="1",
                    max_concurrent=self.max_concurrent,
                    on_input=self.on_input,
                    critical_destinations=self.critical,
                )
                for intent in self.intents
            ],
        )
        await self._write(hello=hello)
        opened = await self._work.read()
        assert opened.WhichOneof("message") == "opened", opened
        if slots:
            await self.credit(slots)
        self._tasks = [asyncio.create_task(self._listen(self._work)), asyncio.create_task(self._beat())]

    async def credit(self, slots: int, ended: Sequence[str] = ()) -> None:
        """Take more runs; say which have ended."""
        credit = work_service_pb2.RunnerCredit(slots=slots, ended_run_ids=ended)
        await self._write(credit=credit)

    async def hand_back(self, *held: Held) -> None:
        """Give leases back."""
        refs = [work_service_pb2.LeaseRef(run_id=each.run_id, epoch=each.epoch) for each in held]
        for each in held:
            self.forget(each)
        back = work_service_pb2.RunnerHandBack(leases=refs)
        await self._write(hand_back=back)

    async def take(self, run_id: str | None = None, *, epoch: int = 0) -> Held:
        """Wait for a run, any or a certain one."""

        def found() -> bool:
            if run_id is None:
                return bool(self.held)
            return run_id in self.held and self.held[run_id].epoch >= epoch

        await until(found)
        return self.held[run_id] if run_id is not None else next(iter(self.held.values()))

    async def commit(self, held: Held, **move: Any) -> checkpoint_service_pb2.CommitAnswer:
        """Commit what was shown, and possibly a move."""
        held.number += 1
        events = held.after(held.committed)
        commit = checkpoint_pb2.Commit(
            run_id=held.run_id,
            epoch=held.epoch,
            number=held.number,
            events=transcript_pb2.EventBatch(events=events) if events else None,
            **move,
        )
        await self._commits.write(checkpoint_service_pb2.CommitRequest(commits=[commit]))
        answer = (await self._commits.read()).answers[0]
        if answer.WhichOneof("result") == "committed":
            held.committed += len(events)
        return answer  # type: ignore[no-any-return]

    async def end(self, held: Held, result: str = "done", *, hint: bool = True) -> None:
        """End a run well; with `hint` the Invoker is told at once."""
        outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
        outcome.result.string_value = result
        held.show_end(outcome)
        answer = await self.commit(held, end=outcome)
        assert answer.WhichOneof("result") == "committed", answer
        self.forget(held)
        await self.credit(1, [held.run_id] if hint else [])

    def forget(self, held: Held) -> None:
        """Have the run no longer."""
        held.over = True
        held.wake()
        self.held.pop(held.run_id, None)

    async def break_stream(self) -> None:
        """Lose the session's stream; the runs go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._work.cancel()
        await self._work_channel.close()

    async def die(self) -> None:
        """End at once, with all that was not committed."""
        await self.break_stream()
        self._commits.cancel()
        await self._commit_channel.close()
        assert self._server is not None
        await self._server.stop(0)
        self.held.clear()

    async def Attach(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[attach.AttachRequest], _context: Any
    ) -> AsyncIterator[attach.AttachResponse]:
        """Show runs to an Invoker, many over one stream."""
        self.attached += 1
        outgoing: asyncio.Queue[attach.AttachResponse | None] = asyncio.Queue()
        following: dict[str, asyncio.Task[None]] = {}

        async def read() -> None:
            async for request in request_iterator:
                kind = request.WhichOneof("message")
                if kind in {"subscribe", "unsubscribe"} and request.run_id in following:
                    following.pop(request.run_id).cancel()
                if kind == "subscribe":
                    after = request.subscribe.after_sequence
                    following[request.run_id] = asyncio.create_task(
                        self._follow(request.run_id, after, outgoing)
                    )
                elif kind == "cancel":
                    self.cancels.append(request.run_id)
                elif kind == "signal":
                    self.attach_signals.append(request.signal)
            outgoing.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (message := await outgoing.get()) is not None:
                yield message
        finally:
            reader.cancel()
            for task in following.values():
                task.cancel()

    async def Drain(  # noqa: N802 - the contract's name
        self, _request: attach.DrainRequest, _context: Any
    ) -> attach.DrainResponse:
        """Do nothing: a test says what this runner does."""
        return attach.DrainResponse()

    async def _follow(
        self, run_id: str, after: int, outgoing: "asyncio.Queue[attach.AttachResponse | None]"
    ) -> None:
        held = self.held.get(run_id)
        if held is None:
            outgoing.put_nowait(attach.AttachResponse(run_id=run_id, gone=attach.AttachGone()))
            return
        if after + 1 < held.first:
            behind = attach.AttachBehind(first_sequence=held.first, committed_sequence=held.committed)
            outgoing.put_nowait(attach.AttachResponse(run_id=run_id, epoch=held.epoch, behind=behind))
            return
        while True:
            changed = held.changed
            events = held.after(after)
            if events:
                after = events[-1].sequence
                batch = transcript_pb2.EventBatch(events=events)
                outgoing.put_nowait(attach.AttachResponse(run_id=run_id, epoch=held.epoch, events=batch))
            if held.over:
                gone = attach.AttachGone(ended=True)
                outgoing.put_nowait(attach.AttachResponse(run_id=run_id, epoch=held.epoch, gone=gone))
                return
            await changed.wait()

    async def _write(self, **message: Any) -> None:
        async with self._writing:
            await self._work.write(work_service_pb2.LeaseRequest(**message))

    async def _listen(self, work: Any) -> None:
        try:
            while (message := await work.read()) is not grpc.aio.EOF:
                for assignment in message.leased.assignments:
                    self.told.append(assignment)
                    old = self.held.get(assignment.run_id)
                    if old is None or old.epoch < assignment.epoch:
                        self.held[assignment.run_id] = Held(assignment)
                self.signals += [(each.signal.key, each.signal.sequence) for each in message.signals.signals]
                self.cancels += [ref.run_id for ref in message.cancel.leases]
                self.paused += [ref.run_id for ref in message.pause.leases]
                self.revoked += [ref.run_id for ref in message.revoked.leases]
                self.draining |= message.HasField("draining")
        except grpc.aio.AioRpcError:
            pass
        self.code = await work.code()

    async def _beat(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await asyncio.sleep(0.05)
                if self.beating:
                    beat = work_service_pb2.RunnerHeartbeat(held=len(self.held))
                    await self._write(heartbeat=beat)


@asynccontextmanager
async def runner(
    invoker_address: str, checkpoint_address: str, *, intents: Sequence[str] = ("count",), slots: int = 0
) -> AsyncIterator[Runner]:
    """Run a runner for the block."""
    one = Runner(invoker_address, checkpoint_address, intents)
    await one.start(slots)
    try:
        yield one
    finally:
        await one.die()
