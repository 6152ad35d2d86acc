"""A journal in memory that keeps what was committed, as the ledger would, and can lose what was not."""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from holdfast.agent import App, Dimension, Limits, Usage
from holdfast.agent.approval import NO_GATES, Gates
from holdfast.agent.child import NO_CHILDREN, Children
from holdfast.agent.engine.journal import Answer, Committed, Refused
from holdfast.agent.engine.mailbox import Mailbox, signal_of
from holdfast.agent.engine.transcript import Speakers
from holdfast.agent.execution import Execution, Left
from holdfast.agent.wire.invocation import History, Invocation
from holdfast.v1.checkpoint_pb2 import Commit, EffectIntent, ParkMove, StepRecord
from holdfast.v1.checkpoint_service_pb2 import LoadRunResponse, SessionRead
from holdfast.v1.mailbox_pb2 import MailboxSignal
from holdfast.v1.run_pb2 import Outcome
from holdfast.v1.transcript_pb2 import RunEvent

AMPLE = Limits(deadline=3600, steps=1000, tools=1000, tokens=1_000_000, context=100_000)


class Crash(BaseException):
    """The process is gone."""


class Memory:
    """The durable side of one run over all its leases."""

    def __init__(self, intent: str, payload: dict[str, Any] | None = None, limits: Limits = AMPLE) -> None:
        self.run_id = str(uuid.uuid4())
        self.intent = intent
        self.payload = payload or {}
        self.limits = limits
        self.remaining = 60.0
        self.max_attempts = 5
        self.commits: list[Commit] = []
        self.live: list[RunEvent] = []
        self.epoch = 0
        self.refuse: Callable[[Commit], Answer | None] = lambda _: None
        self.hold = False
        self.session: tuple[bytes, int] | None = None
        """What the run finds in its session; None without one."""
        self.handoff: Limits | None = None
        self.children: Children = NO_CHILDREN
        self.gates: Gates = NO_GATES
        self.lent = Usage()
        """What the ledger has lent to children by the next lease."""
        self.returned = Usage()
        """What ended children have spent by the next lease."""
        self._held: list[Callable[[], None]] = []
        self.mail: list[MailboxSignal] = []
        self.mail_last = 0
        self._mailbox = Mailbox()
        self.parked: ParkMove | None = None
        """What wakes the run, while it rests."""
        self.slept = 0.0
        """Seconds that have passed since its waits began."""

    # -- the journal ---------------------------------------------------------------------------------------

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        copy = Commit.FromString(commit.SerializeToString())
        epoch = self.epoch
        loop = asyncio.get_running_loop()

        def land() -> None:
            answered(self._land(copy, epoch))

        if self.hold:
            self._held.append(land)
        else:
            loop.call_soon(land)

    def happened(self, event: RunEvent) -> None:
        self.live.append(event)

    def release(self) -> None:
        """Let held commits land."""
        held, self._held = self._held, []
        for land in held:
            land()

    def _land(self, commit: Commit, epoch: int) -> Answer:
        if epoch != self.epoch or commit.epoch != self.epoch:
            return Refused("FENCED", "the lease is another's")
        refusal = self.refuse(commit)
        if refusal is not None:
            return refusal
        assert commit.number == len(self.commits) + 1, "commits are numbered without gaps"
        events = commit.events.events
        if events:
            assert events[0].sequence == self.last_sequence + 1, "events are numbered without gaps"
        waiting = [signal.signal_id for signal in self.mail]
        assert set(commit.consumed_signal_ids) <= set(waiting), "only what waits is consumed"
        self.mail = [each for each in self.mail if each.signal_id not in commit.consumed_signal_ids]
        self.commits.append(commit)
        if commit.WhichOneof("move") == "park":
            self.parked = commit.park
        return Committed()

    # -- the mailbox ----------------------------------------------------------------------------------------

    def signal(self, payload: Any, key: str = "input", *, urgent: bool = False, lost: bool = False) -> str:
        """Put a signal in the mailbox and push it to the lease that lives, unless that is lost on the way."""
        self.mail_last += 1
        signal = MailboxSignal(
            signal_id=f"s{self.mail_last}",
            key=key,
            payload=json.dumps(payload).encode(),
            urgent=urgent,
            sequence=self.mail_last,
        )
        self.mail.append(signal)
        if not lost:
            self._mailbox.arrived(signal_of(signal))
        return signal.signal_id

    def push_again(self) -> None:
        """Push all that waits, as what looks after lost pushes does."""
        for signal in self.mail:
            self._mailbox.arrived(signal_of(signal))

    # -- what is durable -----------------------------------------------------------------------------------

    @property
    def events(self) -> list[RunEvent]:
        return [event for commit in self.commits for event in commit.events.events]

    @property
    def last_sequence(self) -> int:
        return self.events[-1].sequence if self.events else 1

    @property
    def records(self) -> list[StepRecord]:
        return [record for commit in self.commits for record in commit.steps]

    @property
    def effects(self) -> list[EffectIntent]:
        return [effect for commit in self.commits for effect in commit.effects]

    @property
    def keys(self) -> list[str]:
        return [record.key for record in self.records]

    @property
    def outcome(self) -> Outcome:
        return self.commits[-1].end

    @property
    def spent(self) -> Usage:
        returned = self.returned
        spent = Usage(returned.steps, returned.tools, returned.tokens)
        charges = [record.usage for record in self.records] + [commit.usage for commit in self.commits]
        for usage in charges:
            spent.steps += usage.steps
            spent.tools += usage.tools
            spent.tokens += usage.tokens
            spent.context = max(spent.context, usage.context)
        return spent

    def told(self, kind: str) -> list[Any]:
        """Return the committed events of a kind."""
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]

    # -- leases --------------------------------------------------------------------------------------------

    def lease(
        self,
        app: App,
        reached: Callable[[str], None] = lambda _: None,
        speakers: Speakers | None = None,
    ) -> Execution:
        """Take the run under the next epoch."""
        self.epoch += 1
        self.live.clear()
        emitted: dict[str, int] = {}
        for commit in self.commits:
            for scope, count in commit.emitted.items():
                emitted[scope] = emitted.get(scope, 0) + count
        invocation = Invocation(
            run_id=self.run_id,
            intent=self.intent,
            payload=self.payload,
            limits=self.limits,
            epoch=self.epoch,
            attempt=self.epoch,
            max_attempts=self.max_attempts,
            remaining=self.remaining,
            last_commit=len(self.commits),
            last_sequence=self.last_sequence,
            spent=self.spent,
            lent=self.lent,
            mail_last=self.mail_last,
            handoff=self.handoff,
            time=time.time(),
        )
        page = LoadRunResponse(
            steps=[self._aged(record) for record in self.records],
            emitted=emitted,
            session=self.session and SessionRead(state=self.session[0], version=self.session[1]),
            handed_off=any(commit.handoff for commit in self.commits),
            signals=self.mail,
            mailbox_sequence=self.mail_last,
        )
        self._mailbox = Mailbox()
        self.parked = None
        return Execution(
            app.agents[self.intent],
            invocation,
            History([page]),
            self,
            models=app.models,
            reached=reached,
            mailbox=self._mailbox,
            children=self.children,
            gates=self.gates,
            speakers=speakers,
        )

    def _aged(self, record: StepRecord) -> StepRecord:
        if not record.HasField("wait_for"):
            return record
        aged = StepRecord.FromString(record.SerializeToString())
        left = record.wait_for.ToTimedelta() - timedelta(seconds=self.slept)
        aged.wait_for.FromTimedelta(max(left, timedelta()))
        return aged

    async def run(self, app: App) -> Left:
        """Execute the run under one more lease."""
        async with asyncio.timeout(10):
            return await self.lease(app).run()

    async def crash(self, app: App, after_commits: int) -> bool:
        """Execute the run until so many commits have landed and then drop it; false if it ended before."""
        landed = asyncio.Event()
        left = after_commits

        def count(_: Commit) -> Answer | None:
            nonlocal left
            if left == 0:
                landed.set()
                return Refused("FENCED", "the process is gone")
            left -= 1
            return None

        self.refuse = count
        try:
            async with asyncio.timeout(10):
                return await self.lease(app).run() is Left.LOST
        finally:
            self.refuse = lambda _: None


class Counter:
    """Counts how often something was executed."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self.calls)

    def note(self, what: Any) -> int:
        self.calls.append(what)
        return next(self._numbers)


__all__ = ["AMPLE", "Counter", "Crash", "Dimension", "Memory"]
