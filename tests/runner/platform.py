"""The other side of a runner's wire: leases and commits in memory, speaking the contract over gRPC."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from holdfast.v1 import checkpoint_pb2
from holdfast.v1.checkpoint_service_pb2 import (
    CommitAnswer,
    CommitRequest,
    CommitResponse,
    LoadRunRequest,
    LoadRunResponse,
)
from holdfast.v1.checkpoint_service_pb2_grpc import (
    CheckpointServiceServicer,
    add_CheckpointServiceServicer_to_server,
)
from holdfast.v1.mailbox_pb2 import MailboxSignal
from holdfast.v1.run_pb2 import Budget, Outcome
from holdfast.v1.transcript_pb2 import RunEvent
from holdfast.v1.work_service_pb2 import (
    ArrivedSignal,
    Assignment,
    CancelAsked,
    LeaseRef,
    LeaseRequest,
    LeaseResponse,
    LeasesRevoked,
    RunnerHello,
    RunsLeased,
    SessionOpened,
    SignalsArrived,
)
from holdfast.v1.work_service_pb2_grpc import WorkServiceServicer, add_WorkServiceServicer_to_server

AMPLE = Budget(deadline_ms=3_600_000, max_steps=1000, max_tools=1000, max_tokens=10**6, max_context=10**5)


class StoredRun:
    """What the ledger would hold of one run."""

    def __init__(self, intent: str, payload: dict[str, Any], budget: Budget) -> None:
        self.run_id = str(uuid.uuid4())
        self.intent = intent
        self.payload = payload
        self.budget = budget
        self.epoch = 0
        self.commits: list[checkpoint_pb2.Commit] = []
        self.mail: list[MailboxSignal] = []
        self.mail_last = 0
        self.moved = asyncio.Event()

    @property
    def events(self) -> list[RunEvent]:
        return [event for commit in self.commits for event in commit.events.events]

    @property
    def keys(self) -> list[str]:
        return [record.key for commit in self.commits for record in commit.steps]

    @property
    def outcome(self) -> Outcome:
        return self.commits[-1].end

    def assignment(self) -> Assignment:
        """Lease the run under the next epoch."""
        self.epoch += 1
        self.moved.clear()
        assignment = Assignment(
            run_id=self.run_id,
            epoch=self.epoch,
            attempt=self.epoch,
            max_attempts=5,
            last_commit=len(self.commits),
            last_sequence=self.events[-1].sequence if self.events else 1,
        )
        assignment.mailbox_sequence = self.mail_last
        assignment.invocation.intent = self.intent
        assignment.invocation.payload.update(self.payload)
        assignment.invocation.budget.CopyFrom(self.budget)
        assignment.remaining.FromSeconds(3600)
        return assignment


class Platform(WorkServiceServicer, CheckpointServiceServicer):
    """Leases what it is told to and stores what is committed."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.hello: RunnerHello | None = None
        self.sessions: list[str] = []
        self.credit = 0
        self.ended: list[str] = []
        self.handed_back: list[LeaseRef] = []
        self.heartbeats = 0
        self.received: list[checkpoint_pb2.Commit] = []
        self.fate: Callable[[checkpoint_pb2.Commit], str] = lambda _: "commit"
        """What becomes of one: `commit`, `lose` (stored, not answered), `retry`, or a reason to refuse."""
        self.changed = asyncio.Condition()
        self.ttl = 10.0
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._down: asyncio.Queue[LeaseResponse | None] = asyncio.Queue()
        self._cut = asyncio.Event()

    # -- life ----------------------------------------------------------------------------------------------

    async def start(self, address: str = "127.0.0.1:0") -> None:
        """Serve on loopback."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_WorkServiceServicer_to_server(self, self._server)
        add_CheckpointServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Be gone at once."""
        if self._server is not None:
            await self._server.stop(None)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    async def _note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    # -- what a test does ----------------------------------------------------------------------------------

    def add(self, intent: str, budget: Budget = AMPLE, **payload: Any) -> StoredRun:
        """Accept a run."""
        run = StoredRun(intent, payload, budget)
        self.runs[run.run_id] = run
        return run

    def lease(self, *runs: StoredRun) -> None:
        """Push runs to the runner."""
        self.lease_as(*(run.assignment() for run in runs))

    def lease_as(self, *assignments: Assignment) -> None:
        """Push leases that were made before."""
        self._down.put_nowait(LeaseResponse(leased=RunsLeased(assignments=assignments)))

    def revoke(self, run: StoredRun) -> None:
        """Take a lease away."""
        refs = [LeaseRef(run_id=run.run_id, epoch=run.epoch)]
        run.epoch += 1
        self._down.put_nowait(LeaseResponse(revoked=LeasesRevoked(leases=refs)))

    def cancel(self, run: StoredRun, reason: str) -> None:
        """Ask for a run's end."""
        refs = [LeaseRef(run_id=run.run_id, epoch=run.epoch)]
        self._down.put_nowait(LeaseResponse(cancel=CancelAsked(leases=refs, reason=reason)))

    def send(self, run: StoredRun, text: str, key: str = "input", *, urgent: bool = False) -> MailboxSignal:
        """Put a signal in a run's mailbox, without a word to its runner."""
        run.mail_last += 1
        signal = MailboxSignal(
            signal_id=f"s{run.mail_last}",
            key=key,
            payload=f'"{text}"'.encode(),
            urgent=urgent,
            sequence=run.mail_last,
        )
        run.mail.append(signal)
        return signal

    def push(self, run: StoredRun, *signals: MailboxSignal, epoch: int = 0) -> None:
        """Push signals over the lease stream."""
        lease = LeaseRef(run_id=run.run_id, epoch=epoch or run.epoch)
        arrived = [ArrivedSignal(lease=lease, signal=signal) for signal in signals]
        self._down.put_nowait(LeaseResponse(signals=SignalsArrived(signals=arrived)))

    def cut_lease_stream(self) -> None:
        """Break the runner's session stream."""
        self._down.put_nowait(None)

    # -- WorkService ---------------------------------------------------------------------------------------

    async def Lease(  # noqa: N802
        self, request_iterator: AsyncIterator[LeaseRequest], context: Any
    ) -> AsyncIterator[LeaseResponse]:
        first = await anext(aiter(request_iterator))
        assert first.WhichOneof("message") == "hello"
        self.hello = first.hello
        self.sessions.append(first.hello.runner_id)
        self.credit = 0
        opened = SessionOpened(session_id=first.hello.runner_id)
        opened.heartbeat_interval.FromMilliseconds(50)
        opened.lease_ttl.FromMilliseconds(int(self.ttl * 1000))
        yield LeaseResponse(opened=opened)
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while (message := await self._down.get()) is not None:
                if message.HasField("leased"):
                    self.credit -= len(message.leased.assignments)
                yield message
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[LeaseRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "credit":
                self.credit += request.credit.slots
                self.ended.extend(request.credit.ended_run_ids)
            elif kind == "hand_back":
                self.handed_back.extend(request.hand_back.leases)
            else:
                self.heartbeats += 1
            await self._note()

    # -- CheckpointService ---------------------------------------------------------------------------------

    async def Commit(  # noqa: N802
        self, request_iterator: AsyncIterator[CommitRequest], context: Any
    ) -> AsyncIterator[CommitResponse]:
        del context
        async for request in request_iterator:
            answers = [self._store(commit) for commit in request.commits]
            yield CommitResponse(answers=[answer for answer in answers if answer is not None])
            await self._note()

    def _store(self, commit: checkpoint_pb2.Commit) -> CommitAnswer | None:
        self.received.append(commit)
        answer = CommitAnswer(run_id=commit.run_id, epoch=commit.epoch, number=commit.number)
        run = self.runs[commit.run_id]
        if commit.epoch == run.epoch and commit.number <= len(run.commits):
            answer.committed.SetInParent()
            return answer
        if commit.epoch != run.epoch:
            answer.refused.reason = "FENCED"
            return answer
        fate = self.fate(commit)
        if fate in ("commit", "lose"):
            assert commit.number == len(run.commits) + 1
            run.commits.append(commit)
            run.mail = [each for each in run.mail if each.signal_id not in commit.consumed_signal_ids]
            if commit.WhichOneof("move"):
                run.moved.set()
            answer.committed.SetInParent()
            return answer if fate == "commit" else None
        answer.refused.reason = "LEDGER_UNAVAILABLE" if fate == "retry" else fate
        answer.refused.retryable = fate == "retry"
        return answer

    async def LoadRun(  # noqa: N802
        self, request: LoadRunRequest, context: Any
    ) -> AsyncIterator[LoadRunResponse]:
        run = self.runs[request.run_id]
        if request.epoch != run.epoch:
            await context.abort(grpc.StatusCode.ABORTED, "fenced")
        emitted: dict[str, int] = {}
        for commit in run.commits:
            yield LoadRunResponse(steps=commit.steps)
            for scope, count in commit.emitted.items():
                emitted[scope] = emitted.get(scope, 0) + count
        yield LoadRunResponse(emitted=emitted, signals=run.mail, mailbox_sequence=run.mail_last)

    async def ListCheckpoints(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no runner asks for this")

    async def ForkRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no runner asks for this")
