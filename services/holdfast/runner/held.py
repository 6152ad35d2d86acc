"""A run that is held here under one lease: what is stopped, committed and told of it."""

import asyncio
from collections.abc import Callable

from holdfast.agent.chunk import Chunk
from holdfast.agent.engine.journal import Answer, Committed
from holdfast.agent.engine.mailbox import Mailbox
from holdfast.agent.error import LeaseLost, RunStopped
from holdfast.agent.execution import Execution
from holdfast.agent.wire.invocation import Invocation
from holdfast.payload import Sealing
from holdfast.runner.capability import LeaseCapability
from holdfast.runner.commit_stream import CommitStream
from holdfast.runner.memory import RunMemory
from holdfast.runner.observation import Observation, Sent
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.transcript_pb2 import RunEvent


class Held:
    """One run under one lease; the journal of its execution."""

    def __init__(
        self,
        invocation: Invocation,
        commits: CommitStream,
        observation: Observation,
        capability: str = "",
        sealing: Sealing | None = None,
        *,
        leaves: Callable[["Held"], None] = lambda _: None,
    ) -> None:
        """`leaves` is called when the commit is sent that says where the run goes from here."""
        self._leaves = leaves
        self._sealing = sealing
        self.observation = observation
        self.capability = LeaseCapability(capability)
        self.invocation = invocation
        self.memory = RunMemory(invocation.run_id, invocation.last_sequence)
        self.mailbox = Mailbox()
        self.execution: Execution | Chunk | None = None
        self.stopped: RunStopped | None = None
        self.task: asyncio.Task[None] | None = None
        self._commits = commits

    def stop(self, stopped: RunStopped) -> None:
        """Stop the run, or see to it that it does not start."""
        lost = isinstance(stopped, LeaseLost)
        if self.execution is not None:
            self.execution.stop(stopped)
        elif self.stopped is None or lost:
            self.stopped = stopped
            if lost and self.task is not None:
                self.task.cancel()
        if lost:
            self._commits.forget(self.invocation.run_id, self.invocation.epoch)

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Send a commit, and remember up to where the transcript is durable."""
        commit.capability = self.capability.text
        sent = Sent(self.observation, commit.number)
        commit.traceparent = sent.traceparent
        commit.correlation_id = self.invocation.correlation_id
        events = commit.events.events
        last = events[-1].sequence if events else 0

        def noted(answer: Answer) -> None:
            if last and isinstance(answer, Committed):
                self.memory.committed = last
            answered(answer)
            sent.answered(answer)

        leaves = commit.WhichOneof("move") is not None
        if self._sealing is not None:  # not where it is written: what is sealed is larger
            commit = self._sealing.sealed(commit)
        self._commits.commit(commit, noted, self.observation.fields)
        if leaves:
            self._leaves(self)

    def happened(self, event: RunEvent) -> None:
        """Keep an event for those who follow the run."""
        self.memory.append(event)
