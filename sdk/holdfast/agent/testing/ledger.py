"""The ledger of one run, in memory: what it says is durable outlives every lease, and nothing else does.

QUEUED ──(lease)──▶ leased ──(end)──▶ ended
  ▲ ▲                 │ │ ├─(requeue, lost)──▶ QUEUED, or DEAD_LETTERED after the last attempt
  │ │                 │ │ └─(compensate)─────▶ QUEUED, and all leases from then on undo its steps
  │ └─────────────────┘ └──(park)──▶ PARKED ──(a signal, a time)──▶ QUEUED
  └─────────────────────────────────────┘
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from holdfast.agent.budget import Dimension, Usage
from holdfast.agent.engine.journal import Answer, Committed, Refused
from holdfast.agent.error import Failure
from holdfast.agent.testing.account import Account
from holdfast.agent.testing.scene import BEGIN, Scene
from holdfast.agent.wire.draft import PARTIAL, Commit, Outcome, Record
from holdfast.agent.wire.invocation import Invocation, read_failure
from holdfast.v1.checkpoint_pb2 import (
    UNDO_ON_CANCEL,
    UNDO_ON_EXHAUSTED,
    UNDO_ON_FAILURE,
    Compensation,
    EffectIntent,
    ParkMove,
    UndoOn,
)
from holdfast.v1.checkpoint_service_pb2 import LoadRunResponse, SessionRead
from holdfast.v1.mailbox_pb2 import MailboxSignal
from holdfast.v1.run_pb2 import RUN_STATUS_CANCELLED, RUN_STATUS_DEAD_LETTERED, RUN_STATUS_FAILED
from holdfast.v1.run_pb2 import Outcome as OutcomeMessage
from holdfast.v1.transcript_pb2 import RunEvent

RUN_ID = "0d5c7c1e-5f0e-4f4e-9d5c-7a1b00000001"
"""Every run in a lab that is nobody's child has this id, so that two of them can be compared."""
CANCELLED = "Someone asked to cancel the run."
_NEARLY = 1e-6  # seconds: what a sum of times may lack


class Ledger:
    """All that is durable of one run; its clock is that of the loop."""

    def __init__(
        self,
        scene: Scene,
        run_id: str = RUN_ID,
        *,
        on_orphans: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin with a run that waits.

        `on_orphans` is called in the moment in which it wants its children no more, for its steps begin to be
        undone or its agent begins anew; `on_end` in that in which it ends, however it does.
        """
        self.run_id = run_id
        self._scene = scene
        self._on_orphans = on_orphans
        self._on_end = on_end
        self._time = asyncio.get_running_loop().time
        self._born = self._time()
        self._ended = float("inf")
        self._limits_since = self._born
        self.account = Account(scene.limits)
        self.commits: list[Commit] = []
        self.epoch = 0
        self.attempt = 0
        self.outcome: OutcomeMessage | None = None
        self.session = None if scene.session is None else json.dumps(dict(scene.session)).encode()
        self._session_version = 0
        self._handed_off = False
        self.mail: list[MailboxSignal] = []
        self._mail_last = 0
        self._recorded: dict[str, float] = {}
        self._parked: ParkMove | None = None
        self._not_before = self._born
        self._behind = False
        self.cancel_requested = False
        self._cancel_reason = CANCELLED
        self._undo: Compensation | None = None
        self._compensating: Failure | None = None
        self.leased = False
        """A runner holds it: no commit has taken it away yet."""
        self._news = asyncio.Event()

    # -- what it holds -------------------------------------------------------------------------------------

    @property
    def intent(self) -> str:
        """What its agent was asked to do."""
        return self._scene.intent

    @property
    def events(self) -> list[RunEvent]:
        """The transcript."""
        return [event for commit in self.commits for event in commit.events.events]

    @property
    def records(self) -> list[Record]:
        """The steps that have an outcome."""
        return [record for commit in self.commits for record in commit.steps if not record.intent]

    @property
    def effects(self) -> list[EffectIntent]:
        """What was sent."""
        return [effect for commit in self.commits for effect in commit.effects]

    @property
    def emitted(self) -> dict[str, int]:
        """How much each scope has told."""
        emitted: Counter[str] = Counter()
        for commit in self.commits:
            emitted.update(commit.emitted)
        return dict(emitted)

    @property
    def spent(self) -> Usage:
        """What is charged, for what its children have spent, too."""
        return self.account.spent

    @property
    def last_sequence(self) -> int:
        """The sequence of the last event: the first one, that the run was accepted, is not kept here."""
        events = self.events
        return events[-1].sequence if events else 1

    @property
    def elapsed(self) -> float:
        """Seconds from the run's acceptance to its end, or until now."""
        return min(self._time(), self._ended) - self._born

    @property
    def deadline(self) -> float:
        """When the run's time is over, by the loop's clock."""
        return self._limits_since + self.account.limits.deadline

    def has(self, key: str) -> bool:
        """Say whether a step has an outcome."""
        return any(record.key == key for record in self.records)

    # -- what a lease is given -----------------------------------------------------------------------------

    def lease(self) -> Invocation:
        """Give the run out under the next epoch."""
        self.epoch += 1
        self.attempt += 1
        self.leased = True
        scene = self._scene
        return Invocation(
            run_id=self.run_id,
            intent=scene.intent,
            payload=json.loads(json.dumps(dict(scene.payload))),
            limits=self.account.limits,
            epoch=self.epoch,
            attempt=self.attempt,
            max_attempts=scene.max_attempts,
            remaining=max(0.0, self.deadline - self._time()),
            last_commit=len(self.commits),
            last_sequence=self.last_sequence,
            spent=self.spent,
            lent=self.account.lent,
            user=scene.user,
            handoff=scene.handoff,
            labels=dict(scene.labels),
            create_time=BEGIN + timedelta(seconds=self._born),
            mail_last=self._mail_last,
            time=(BEGIN + timedelta(seconds=self._time())).timestamp(),
            compensating=self._compensating,
        )

    def page(self) -> LoadRunResponse:
        """Return the run's history, as of now."""
        session = None
        if self.session is not None:
            session = SessionRead(state=self.session, version=self._session_version)
        steps = [record for commit in self.commits for record in commit.steps]
        return LoadRunResponse(
            steps=[self._aged(record) for record in steps],
            emitted=self.emitted,
            session=session,
            handed_off=self._handed_off,
            signals=self.mail,
            mailbox_sequence=self._mail_last,
        )

    # -- what happens to it --------------------------------------------------------------------------------

    def signal(self, payload: Any, key: str, *, urgent: bool = False, signal_id: str = "") -> MailboxSignal:
        """Put a signal in the mailbox, and wake the run if it rests for that."""
        self._mail_last += 1
        signal = MailboxSignal(
            signal_id=signal_id or f"signal-{self._mail_last}",
            key=key,
            payload=json.dumps(payload).encode(),
            urgent=urgent,
            sequence=self._mail_last,
        )
        self.mail.append(signal)
        self._news.set()
        return signal

    def cancel(self, reason: str = "") -> None:
        """Note that somebody asks to cancel the run; one that is being undone is on its way out already."""
        if not self.cancel_requested:
            self._cancel_reason = reason or CANCELLED
        self.cancel_requested = self._compensating is None
        self._news.set()

    def queue(self, *, behind: bool) -> None:
        """Let the run wait behind another of its ordering key, or for none any more."""
        self._behind = behind
        self._news.set()

    async def ready(self) -> bool:
        """Wait until the run may be leased; false if it ends, or has ended, without."""
        while not self._may_start():
            if self.outcome is not None:
                return False
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(self._due, self.deadline)):
                    await self._news.wait()
            except TimeoutError:
                continue
        return True

    def lost(self) -> None:
        """Take the run back from a runner that is gone: the attempt counts."""
        self.leased = False
        self._failed(Failure("RUNNER_LOST", "The runner is gone."))

    def commit(self, commit: Commit) -> Answer:
        """Let a commit land whole, or not at all."""
        if not self.leased or commit.epoch != self.epoch:
            return Refused("FENCED", "The lease is another's.")
        if commit.number != len(self.commits) + 1:
            return Refused("COMMIT_OUT_OF_ORDER", f"Commit {commit.number} is not the next.")
        events = commit.events.events
        if events and events[0].sequence != self.last_sequence + 1:
            return Refused("COMMIT_OUT_OF_ORDER", f"Event {events[0].sequence} is not the next.")
        if not self.account.bears(commit):
            return Refused("BUDGET_EXCEEDED", "The budget does not bear it.")
        self._land(Commit.FromString(commit.SerializeToString()))
        return Committed(cancel_requested=self.cancel_requested)

    def _land(self, commit: Commit) -> None:
        self.commits.append(commit)
        self.account.charge(commit)
        for record in commit.steps:
            self._recorded[record.key] = self._time()
        consumed = set(commit.consumed_signal_ids)
        self.mail = [signal for signal in self.mail if signal.signal_id not in consumed]
        if commit.restarts:
            self._on_orphans()
        if commit.HasField("session"):
            self.session = commit.session.state
            self._session_version += 1
        if commit.HasField("compensation"):
            self._undo = commit.compensation
        if commit.handoff and self._scene.handoff is not None:
            self._handed_off = True
            self.account.limits = self._scene.handoff.over(self.account.limits)
            self._limits_since = self._time()
        move = commit.WhichOneof("move")
        self.leased = move is None
        if move == "end":
            self._end(commit.end)
        elif move == "park":
            self.attempt -= 1
            self._parked = commit.park
            self._not_before = self._time() + commit.park.wait_for.ToTimedelta().total_seconds()
        elif move == "requeue":
            self._requeued(commit)
        elif move == "compensate":
            self._compensate(read_failure(commit.compensate.cause))

    def _requeued(self, commit: Commit) -> None:
        failure, delay = commit.requeue.failure, commit.requeue.delay
        if commit.requeue.blameless:
            self.attempt -= 1
        else:
            self._failed(Failure(failure.reason, failure.message, failure.step))
        self._not_before = self._time() + delay.ToTimedelta().total_seconds()

    def _failed(self, failure: Failure) -> None:
        if self.attempt >= self._scene.max_attempts and not self.cancel_requested:
            self._over(RUN_STATUS_DEAD_LETTERED, UNDO_ON_FAILURE, failure)

    def _may_start(self) -> bool:
        """Say whether the run may be leased now; end it if its time is over, or nobody wants it."""
        if self.outcome is None:
            self._fall_due()
        if self.outcome is not None or self._behind:
            return False
        if self._parked is None:
            return self._reached(self._not_before)
        keys = set(self._parked.keys)
        if not self._reached(self._due) and not any(signal.key in keys for signal in self.mail):
            return False
        self._parked = None
        self._not_before = self._time()
        return True

    def _fall_due(self) -> None:
        if self.cancel_requested:
            cancelled = Failure("CANCELLED", self._cancel_reason)
            self._over(RUN_STATUS_CANCELLED, UNDO_ON_CANCEL, cancelled)
        elif self._reached(self.deadline):
            over = Failure("BUDGET_EXHAUSTED", "The run's time was over.")
            self._over(PARTIAL, UNDO_ON_EXHAUSTED, over, Dimension.DEADLINE)

    def _reached(self, when: float) -> bool:
        return self._time() + _NEARLY >= when

    @property
    def _due(self) -> float:
        """When the run goes on by itself."""
        if self._behind or (self._parked is not None and not self._parked.HasField("wait_for")):
            return self.deadline
        return self._not_before

    def _over(
        self, status: int, end: UndoOn.ValueType, failure: Failure, exhausted: Dimension | None = None
    ) -> None:
        """End the run without a runner, or have its steps undone first; what takes too long itself fails."""
        if self._compensating is not None and status == PARTIAL:
            over = Failure("COMPENSATION_FAILED", "The time for undoing was over.")
            self._end(Outcome(RUN_STATUS_FAILED, failure=over).message)
        elif self._compensating is None and self._undo is not None and end in self._undo.undo_on:
            self._compensate(failure)
        else:
            self._end(Outcome(status, failure=failure, exhausted=exhausted).message)

    def _compensate(self, cause: Failure) -> None:
        assert self._undo is not None  # said with the first step that has an undo
        self._compensating = cause
        self.attempt = 0
        self.cancel_requested = False
        within = self._undo.within.ToTimedelta().total_seconds()
        limits = self.account.limits
        self.account.limits = replace(limits, deadline=within, steps=self.spent.steps + limits.steps)
        self._limits_since = self._not_before = self._time()
        self._parked = None
        self._on_orphans()

    def _end(self, outcome: OutcomeMessage) -> None:
        self.outcome = outcome
        self._ended = self._time()
        self._on_end()

    def _aged(self, record: Record) -> Record:
        """Return a record with what is left of its wait."""
        if not record.HasField("wait_for"):
            return record
        aged = Record.FromString(record.SerializeToString())
        passed = timedelta(seconds=self._time() - self._recorded[record.key])
        aged.wait_for.FromTimedelta(max(record.wait_for.ToTimedelta() - passed, timedelta()))
        return aged
