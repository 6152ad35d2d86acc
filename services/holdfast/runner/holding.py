"""The runs this runner holds: taken with an assignment, executed, and let go in one of a few ways."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import grpc
from prometheus_client import CollectorRegistry

from holdfast.agent.approval import NO_GATES, Gates
from holdfast.agent.child import NO_CHILDREN, Children
from holdfast.agent.chunk import Chunk
from holdfast.agent.compensation import execution_of
from holdfast.agent.engine.mailbox import signal_of
from holdfast.agent.engine.transcript import Speakers
from holdfast.agent.error import HandedBack, LeaseLost, RunCancelled, RunStopped
from holdfast.agent.execution import Left
from holdfast.agent.wire.invocation import History, Invocation, read_assignment
from holdfast.kit import crash_point
from holdfast.kit.telemetry.logs import logger
from holdfast.payload import Sealing
from holdfast.runner.agents import Agents, Served
from holdfast.runner.capability import work_for
from holdfast.runner.commit_stream import CommitStream
from holdfast.runner.held import Held
from holdfast.runner.metrics import RunnerMetrics
from holdfast.runner.observation import Observation, fields_of
from holdfast.v1.mailbox_pb2 import MailboxSignal
from holdfast.v1.work_service_pb2 import Assignment, LeaseRef, RenewedCapability

REMEMBERED: Final = 10_000
"""Runs that have left, of which it is still known how, and under which epoch."""
LOAD_PAUSE: Final = 0.2  # seconds
_OVER: Final = (
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
)

_log: Final = logger("runner")


class Holding:
    """All runs held now, and what Invokers must be told of those that left.

    A run has a slot until it leaves, or sends the last commit of this lease: nothing of it is executed while
    that becomes durable. A quarter as many runs as there are slots may be on their way out beside the others.

    `freed` is called for each slot that is free again, `ended` with the id of a run whose end was
    acknowledged, `handed_back` with a lease that nobody here goes on with.
    """

    def __init__(
        self,
        agents: Agents,
        commits: CommitStream,
        slots: int,
        gates: Gates = NO_GATES,
        children: Children = NO_CHILDREN,
        *,
        metrics: RunnerMetrics | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self.slots = slots
        self._metrics = metrics or RunnerMetrics(CollectorRegistry())
        self._metrics.holds(self, lambda: self.free)
        self._gates_opened_by = gates
        self._children = children
        self.freed: Callable[[], None] = lambda: None
        self.ended: Callable[[str], None] = lambda _: None
        self.handed_back: Callable[[LeaseRef], None] = lambda _: None
        self.draining = False
        self._agents = agents
        self._commits = commits
        self._sealing = sealing
        self._held: dict[str, Held] = {}
        self._all: set[Held] = set()
        self._leaving: set[Held] = set()
        self._most_leaving = max(1, slots // 4)
        self._speakers = Speakers()
        self._gone: OrderedDict[str, tuple[int, Left]] = OrderedDict()
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._changed = asyncio.Condition()
        self._arrivals: dict[str, set[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._all)

    @property
    def free(self) -> int:
        """Slots without a run."""
        taken = len(self._all) - len(self._leaving)
        return 0 if self.draining else max(0, self.slots - taken)

    def find(self, run_id: str) -> Held | None:
        """Return a run that is held."""
        return self._held.get(run_id)

    def ended_here(self, run_id: str) -> bool:
        """Tell whether a run that has left is known to have ended."""
        gone = self._gone.get(run_id)
        return gone is not None and gone[1] is Left.ENDED

    async def arrival(self, run_id: str, patience: float) -> None:
        """Wait a moment for a run whose assignment may be on its way."""
        if run_id in self._held:
            return
        future = asyncio.get_running_loop().create_future()
        waiting = self._arrivals.setdefault(run_id, set())
        waiting.add(future)
        await asyncio.wait({future}, timeout=patience)
        waiting.discard(future)
        if not waiting:
            self._arrivals.pop(run_id, None)

    def take(self, assignments: Iterable[Assignment]) -> None:
        """Begin to execute leased runs; what cannot be executed here is handed back."""
        for assignment in assignments:
            served = self._agents.find(assignment.invocation.intent)
            if served is None or self.draining:
                cause = "draining" if served else "unknown intent"
                self._return(read_assignment(assignment), cause)
            else:
                self._begin(assignment, served)

    def _begin(self, assignment: Assignment, served: Served) -> None:
        run_id = assignment.run_id
        old = self._held.get(run_id)
        if old is not None:
            if old.invocation.epoch >= assignment.epoch:
                return  # told twice
            old.stop(LeaseLost("the run was leased again"))
        elif self._settled(run_id, assignment.epoch):
            return  # told late: what the Invoker read is older than the move that was acknowledged here
        invocation = read_assignment(assignment)
        observation = Observation(invocation, served.agent.version, self._metrics)
        sealing = None if served.chunks else self._sealing  # a chunk seals what its items return
        held = Held(
            invocation, self._commits, observation, assignment.capability, sealing, leaves=self._leaves
        )
        self._held[run_id] = held
        self._all.add(held)
        held.task = asyncio.create_task(self._execute(held, served))
        for future in self._arrivals.get(run_id, ()):
            if not future.done():
                future.set_result(None)

    def revoke(self, leases: Iterable[LeaseRef]) -> None:
        """Stop runs whose lease is another's now; they commit nothing more."""
        for lease in leases:
            self._stop(lease, LeaseLost("the lease was revoked"))

    def cancel(self, leases: Iterable[LeaseRef], reason: str) -> None:
        """Stop runs because someone asked; they end CANCELLED."""
        for lease in leases:
            self._stop(lease, RunCancelled(reason))

    def pause(self, leases: Iterable[LeaseRef]) -> None:
        """Give runs back before their next step, because somebody holds them."""
        for lease in leases:
            held = self._held.get(lease.run_id)
            if held is not None and held.invocation.epoch == lease.epoch and held.execution is not None:
                held.execution.pause()

    def renew(self, capabilities: Iterable[RenewedCapability]) -> None:
        """Show these from now on, for the runs that are held under their leases."""
        for each in capabilities:
            held = self._held.get(each.lease.run_id)
            if held is not None and held.invocation.epoch == each.lease.epoch:
                held.capability.text = each.capability

    def signal(self, lease: LeaseRef, signal: MailboxSignal) -> None:
        """Let a signal reach a run, if it is held under this lease; else its mailbox keeps it."""
        held = self._held.get(lease.run_id)
        if held is not None and held.invocation.epoch == lease.epoch:
            held.mailbox.arrived(signal_of(signal))

    def stop_all(self, stopped: RunStopped) -> None:
        """Stop every run."""
        for held in tuple(self._all):
            held.stop(stopped)

    async def drain(self, grace: float) -> tuple[int, int]:
        """Take no more runs, give running ones `grace` seconds to end, and hand the rest back.

        Returns how many ended and how many did not. Repeatable.
        """
        self.draining = True
        running = len(self._all)
        await self._emptied(grace)
        late = len(self._all)
        if late:
            _log.info("handing back", runs=late)
            self.stop_all(HandedBack())
            await self._emptied(3.0)
        for held in tuple(self._all):  # the Checkpoint service is away: the Invoker takes them
            held.stop(LeaseLost("the runner ends"))
            self._return(held.invocation, "draining")
        return running - late, late

    async def _emptied(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience), self._changed:
                await self._changed.wait_for(lambda: not self._all)
        except TimeoutError:
            return

    def _stop(self, lease: LeaseRef, stopped: RunStopped) -> None:
        held = self._held.get(lease.run_id)
        if held is not None and held.invocation.epoch == lease.epoch:
            held.stop(stopped)

    def _return(self, invocation: Invocation, cause: str) -> None:
        _log.info("lease handed back", cause=cause, **fields_of(invocation))
        self.handed_back(LeaseRef(run_id=invocation.run_id, epoch=invocation.epoch))

    async def _execute(self, held: Held, served: Served) -> None:
        """Execute one run; whatever happens, its slot is free afterwards."""
        left = Left.LOST
        try:
            work_for(held.capability)
            with held.observation.activation() as activation:
                left = await self._left(held, served)
                activation.set_attribute("holdfast.left", left.name.lower())
        except asyncio.CancelledError:
            if held.stopped is None:
                raise  # the process ends without ceremony
        except Exception as error:  # noqa: BLE001 -- a fault of ours must not take other runs with it
            _log.error("execution failed", error=error)
            left = Left.REFUSED
        finally:
            self._metrics.activations.labels(held.invocation.intent, left.name.lower()).inc()
            await self._let_go(held, left)

    async def _left(self, held: Held, served: Served) -> Left:
        gate = self._gate(served)
        if served.chunks:
            return await self._run_chunk(held, served, gate)
        if gate is None:
            return await self._run(held, served)
        async with gate:
            return await self._run(held, served)

    async def _run(self, held: Held, served: Served) -> Left:
        invocation = held.invocation
        history = History()
        if invocation.last_commit or invocation.session_id or invocation.mail_last:
            loaded = await self._history(invocation)
            if loaded is None:
                return Left.LOST
            history = loaded
        execution = held.execution = await execution_of(
            served.agent,
            invocation,
            history,
            held,
            models=served.models,
            reached=_reached,
            mailbox=held.mailbox,
            gates=self._gates_opened_by,
            children=self._children,
            observer=held.observation,
            speakers=self._speakers,
        )
        if held.stopped is not None:
            execution.stop(held.stopped)
        left = await execution.run()
        if execution.failure is not None:
            held.observation.failed(execution.failure)
        held.execution = None
        execution.forget()
        return left

    async def _run_chunk(self, held: Held, served: Served, gate: asyncio.Semaphore | None) -> Left:
        held.execution = Chunk(
            served.agent,
            held.invocation,
            held,
            models=served.models,
            gate=gate,
            reached=_reached,
            observer=held.observation,
            sealing=self._sealing,
        )
        if held.stopped is not None:
            held.execution.stop(held.stopped)
        return await held.execution.run()

    async def _history(self, invocation: Invocation) -> History | None:
        """Load what earlier attempts have recorded; None when the lease is over."""
        while True:
            try:
                return History(await self._commits.load(invocation.run_id, invocation.epoch))
            except grpc.aio.AioRpcError as error:
                if error.code() in _OVER:
                    return None
                _log.warning("history not loaded", code=error.code().name)
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._commits.next_address()
            await asyncio.sleep(LOAD_PAUSE)

    def _leaves(self, held: Held) -> None:
        """Free a run's slot early, unless too many are on their way out."""
        if held not in self._leaving and len(self._leaving) < self._most_leaving:
            self._leaving.add(held)
            self.freed()

    async def _let_go(self, held: Held, left: Left) -> None:
        run_id, epoch = held.invocation.run_id, held.invocation.epoch
        self._commits.forget(run_id, epoch)
        self._all.discard(held)
        ended = left is Left.ENDED
        if self._held.get(run_id) is held:
            del self._held[run_id]
            self._gone[run_id] = (epoch, left)
            self._gone.move_to_end(run_id)
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)
        held.memory.leave(ended=ended)
        if left is Left.REFUSED:
            self._return(held.invocation, "it cannot be committed")
        if ended:
            self.ended(run_id)
        if held in self._leaving:
            self._leaving.remove(held)
        else:
            self.freed()
        if self.draining:
            async with self._changed:
                self._changed.notify_all()

    def _settled(self, run_id: str, epoch: int) -> bool:
        """Tell whether a run has left under this lease or a later one, by a move that is durable."""
        gone = self._gone.get(run_id)
        return gone is not None and gone[0] >= epoch and gone[1] in (Left.ENDED, Left.REQUEUED)

    def _gate(self, served: Served) -> asyncio.Semaphore | None:
        """Return what bounds the runs of an intent at once, if it is bounded."""
        agent = served.agent
        if not agent.max_concurrent:
            return None
        return self._gates.setdefault(agent.intent, asyncio.Semaphore(agent.max_concurrent))


def _reached(point: str) -> None:
    crash_point.reach(f"runner.{point}")
