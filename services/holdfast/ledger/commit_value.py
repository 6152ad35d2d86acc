"""What a commit carries into the ledger and what comes back, free of protobuf.

None of it changes once made. What is made for each commit is not frozen all the same: to make it would take
three times as long.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.kit.errors import Fault
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.domain.undo import UndoOn
from holdfast.ledger.values import Failure, Outcome

NOTHING_CHARGED = Charge()


@dataclass(slots=True)
class Record:
    """A recorded step: its key, and the serialized StepRecord that the ledger does not look into."""

    key: str
    record: bytes


@dataclass(slots=True)
class Happened:
    """Consecutive events of a run: the sequences of the first and the last, and the serialized EventBatch.

    `emitted` is the JSON object of how many of each scope's own events are among them.
    """

    first_sequence: int
    last_sequence: int
    events: bytes
    emitted: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """A side effect released with a commit; its tenant is the run's."""

    effect_id: uuid.UUID
    destination: str
    idempotency_key: str
    body: bytes
    ordering_key: str = ""
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Requeue:
    """The attempt failed, or was given back `blameless`; leased again after `delay` seconds or later."""

    failure: Failure | None = None
    delay: float = 0.0
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class Park:
    """The run waits for a signal under any of these mailbox keys, `seconds` at most if they are given."""

    keys: Sequence[str] = ()
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Compensate:
    """The run's steps are to be undone: why."""

    cause: Failure


Move = Outcome | Requeue | Park | Compensate


@dataclass(frozen=True, slots=True)
class Undo:
    """Which ends of the run have its steps undone, and how many milliseconds that may take."""

    on: UndoOn
    within_ms: int


@dataclass(frozen=True, slots=True)
class SessionWrite:
    """What a run that ends leaves in its session: JSON, and the version it had loaded."""

    state: bytes
    loaded_version: int


@dataclass(slots=True)
class CommitItem:
    """Everything one commit of one run makes durable, at once or not at all; an `Outcome` ends the run."""

    run_id: uuid.UUID
    epoch: int
    number: int
    records: Sequence[Record] = ()
    charge: Charge = NOTHING_CHARGED
    happened: Happened | None = None
    effects: Sequence[Effect] = ()
    move: Move | None = None
    session: SessionWrite | None = None
    handoff: bool = False
    consumed: Sequence[str] = ()
    """Signals received from the mailbox."""
    undo: Undo | None = None
    """Said with the intent of a step that has an undo."""
    restarts: bool = False
    """The agent begins anew."""
    traceparent: str = ""
    """Where it stands in the run's trace."""
    correlation_id: str = ""
    """What ties the run to others, for the log."""

    @property
    def about(self) -> dict[str, str]:
        """Say which run it is of, for the log."""
        told = {"run_id": str(self.run_id)}
        if self.correlation_id:
            told["correlation_id"] = self.correlation_id
        if self.traceparent:
            told["trace_id"] = self.traceparent[3:35]
        return told

    @property
    def is_plain(self) -> bool:
        """Say whether it is progress alone: no effect, no signal, and the run stays with its runner."""
        if self.consumed or self.handoff or self.restarts:
            return False
        return self.move is None and not self.effects

    @property
    def size(self) -> int:
        """Return about how many bytes it brings to the ledger."""
        happened = len(self.happened.events) if self.happened else 0
        result = len(self.move.result or b"") if isinstance(self.move, Outcome) else 0
        records = sum(len(record.record) for record in self.records)
        state = len(self.session.state) if self.session else 0
        return 256 + records + happened + result + state + sum(len(effect.body) for effect in self.effects)


@dataclass(slots=True)
class Stored:
    """The commit is durable, now or since it was sent before. `status` is where the run stands."""

    status: RunStatus
    cancel_requested: bool
    told: bool = field(default=False, compare=False)
    """Who waits for the run's end has been sent the notice of it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The commit did not land. If `retryable`, the same commit may land when it is sent again."""

    fault: Fault
    retryable: bool = False


CommitResult = Stored | Refused
