"""What a runner is given to execute, read once out of its messages."""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from holdfast.agent.budget import Limits, Usage
from holdfast.agent.error import Failure
from holdfast.agent.wire.value import read_struct
from holdfast.v1 import run_pb2
from holdfast.v1.checkpoint_pb2 import StepRecord
from holdfast.v1.checkpoint_service_pb2 import LoadRunResponse
from holdfast.v1.mailbox_pb2 import MailboxSignal
from holdfast.v1.run_pb2 import Budget
from holdfast.v1.work_service_pb2 import Assignment

UNLIMITED = 2**62
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One leased run: the envelope, the lease, and where its transcript goes on."""

    run_id: str
    intent: str
    payload: dict[str, Any]
    limits: Limits
    epoch: int = 1
    attempt: int = 1
    max_attempts: int = 1
    remaining: float = 3600.0
    last_commit: int = 0
    last_sequence: int = 0
    spent: Usage = field(default_factory=Usage)
    lent: Usage = field(default_factory=Usage)
    """What was set aside for its children before this lease."""
    tenant: str = "default"
    user: str = ""
    correlation_id: str = ""
    session_id: str = ""
    handoff: Limits | None = None
    """The budget in the background, limits of 0 staying as they are; None if the run may not move there."""
    labels: dict[str, str] = field(default_factory=dict)
    create_time: datetime = EPOCH
    mail_last: int = 0
    time: float = 0.0
    """The ledger's clock when it was leased, in seconds of Unix time."""
    traceparent: str = ""
    """Where it goes on in its trace, as W3C Trace Context has it; empty where nothing is traced."""
    compensating: Failure | None = None
    """Why its steps are to be undone, instead of its agent to go on."""


def read_assignment(assignment: Assignment) -> Invocation:
    """Read an assignment; a limit left at 0, which the Invoker never sends, is none."""
    envelope, spent, lent = assignment.invocation, assignment.usage, assignment.lent
    budget = envelope.budget
    remaining = assignment.remaining.seconds + assignment.remaining.nanos / 1e9
    return Invocation(
        run_id=assignment.run_id,
        intent=envelope.intent,
        payload=read_struct(envelope.payload),
        limits=Limits(
            deadline=budget.deadline_ms / 1000 or remaining,
            steps=budget.max_steps or UNLIMITED,
            tools=budget.max_tools or UNLIMITED,
            tokens=budget.max_tokens or UNLIMITED,
            context=budget.max_context or UNLIMITED,
        ),
        epoch=assignment.epoch,
        attempt=assignment.attempt,
        max_attempts=assignment.max_attempts,
        remaining=remaining,
        last_commit=assignment.last_commit,
        last_sequence=assignment.last_sequence,
        spent=Usage(spent.steps, spent.tools, spent.tokens, spent.context),
        lent=Usage(lent.steps, lent.tools, lent.tokens),
        tenant=envelope.caller.tenant,
        user=envelope.caller.user,
        correlation_id=envelope.correlation_id,
        session_id=envelope.session_id,
        traceparent=envelope.traceparent,
        handoff=_limits(envelope.handoff.budget) if envelope.HasField("handoff") else None,
        labels=dict(envelope.labels),
        create_time=assignment.create_time.ToDatetime(UTC),
        mail_last=assignment.mailbox_sequence,
        time=assignment.time.ToNanoseconds() / 1e9,
        compensating=read_failure(assignment.compensating) if assignment.HasField("compensating") else None,
    )


def read_failure(failure: run_pb2.Failure) -> Failure:
    """Read why something failed."""
    return Failure(failure.reason, failure.message, failure.step, failure.attempts)


def _limits(budget: Budget) -> Limits:
    return Limits(
        budget.deadline_ms / 1000, budget.max_steps, budget.max_tools, budget.max_tokens, budget.max_context
    )


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a session holds: JSON, empty if nothing is saved, and the version that goes with what is saved."""

    state: bytes
    version: int


class History:
    """What earlier attempts have recorded: steps by key, and how much each scope has emitted.

    And what the run's `session` holds, None if it has none; whether it has `handed_off` already; the
    `signals` that wait in the mailbox, of all that were sent up to the sequence `mail_last`; and which steps
    are `undoable`: those that have an undo and may have taken effect, in the order they were begun.
    """

    __slots__ = (
        "_intents",
        "_records",
        "emitted",
        "handed_off",
        "length",
        "mail_last",
        "session",
        "signals",
        "undoable",
    )

    def __init__(self, pages: Iterable[LoadRunResponse] = ()) -> None:
        self._records: dict[str, StepRecord] = {}
        self._intents: dict[str, StepRecord] = {}
        self.emitted: dict[str, int] = {}
        self.session: Remembered | None = None
        self.handed_off = False
        self.signals: list[MailboxSignal] = []
        self.mail_last = 0
        self.undoable: dict[str, None] = {}
        for page in pages:
            self.add(page)
        self.length = len(self._records)

    def add(self, page: LoadRunResponse) -> None:
        """Take a page in."""
        for record in page.steps:
            (self._intents if record.intent else self._records)[record.key] = record
            if record.undoable:
                self.undoable.setdefault(record.key)
            else:
                self.undoable.pop(record.key, None)
        self.emitted.update(page.emitted)
        self.handed_off |= page.handed_off
        if page.HasField("session"):
            self.session = Remembered(page.session.state, page.session.version)
        self.signals.extend(page.signals)
        self.mail_last = max(self.mail_last, page.mailbox_sequence)
        self.length = len(self._records)

    def intent(self, key: str) -> "Recorded | None":
        """Return what was recorded when a step was begun, if it was."""
        record = self._intents.get(key)
        return None if record is None else Recorded(record)

    def keys(self) -> "tuple[str, ...]":
        """Return the keys of the steps that were begun or recorded and have not been taken."""
        return tuple({**self._intents, **self._records})

    def take_over(self, other: "History") -> None:
        """Hold what another history holds; what is then taken from one is still in the other."""
        for name in History.__slots__:
            setattr(self, name, copy(getattr(other, name)))

    def has(self, key: str) -> bool:
        """Say whether a step has an outcome that was not taken."""
        return key in self._records

    def take(self, key: str) -> "Recorded | None":
        """Return a step's record, once: each key is asked for once in a replay."""
        record = self._records.pop(key, None)
        if record is not None:
            self._intents.pop(key, None)
        return None if record is None else Recorded(record)


class Recorded:
    """The outcome of a step that is not executed again, or the intent of one that was begun."""

    __slots__ = ("_record",)

    def __init__(self, record: StepRecord) -> None:
        self._record = record

    @property
    def kind(self) -> int:
        """What was recorded: a `StepKind`."""
        return self._record.kind

    @property
    def fingerprint(self) -> bytes:
        """The digest of what was asked."""
        return self._record.fingerprint

    @property
    def input(self) -> bytes:
        """What was asked, as JSON; empty if it was not kept."""
        return self._record.input

    @property
    def output(self) -> bytes:
        """What it returned, as JSON."""
        return self._record.output

    @property
    def wait_left(self) -> float | None:
        """How many seconds a wait still took when this was loaded; None if it has no end of its own."""
        left = self._record.wait_for
        return left.seconds + left.nanos / 1e9 if self._record.HasField("wait_for") else None

    @property
    def interruption(self) -> "tuple[str, bytes] | None":
        """The mailbox key and the payload, as JSON, of the signal that interrupted it, if one did."""
        record = self._record
        if not record.HasField("interruption"):
            return None
        return record.interruption.key, record.interruption.payload

    @property
    def failure(self) -> Failure | None:
        """Why it failed for good, if it did."""
        record = self._record
        if not record.HasField("failure"):
            return None
        return replace(read_failure(record.failure), step=record.key)
