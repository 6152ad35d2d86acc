"""What goes into verbs and comes out of them: plain values, no protobuf, no rows.

What the ledger does not look into (envelopes, results) is `bytes`. Times are aware datetimes of the
database's clock; durations are seconds. None of it changes once made; what is made for each run is not
frozen all the same, which would take three times as long.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from holdfast.kit.errors import Fault
from holdfast.ledger.domain.batch import named_intent
from holdfast.ledger.domain.budget import NO_LIMITS, NOTHING_SPENT, Dimension, Limits, Usage
from holdfast.ledger.domain.lane import lane_of
from holdfast.ledger.domain.mailbox import InputPolicy
from holdfast.ledger.domain.status import RunStatus

__all__ = [
    "Admitted",
    "Dimension",
    "Failure",
    "InputPolicy",
    "Invocation",
    "LeaseRef",
    "Leased",
    "Limits",
    "Outcome",
    "Refused",
    "RunStatus",
    "RunView",
    "ServedIntent",
    "TranscriptRow",
    "Usage",
    "intent_of",
    "limits_of",
    "pool_of",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, as `holdfast.v1.Failure`."""

    reason: str
    message: str = ""
    step: str = ""
    attempts: int = 0

    def to_json(self) -> str:
        """Return what a jsonb column holds of it."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str | None) -> "Failure | None":
        """Return what a jsonb column holds, None if nothing."""
        return None if text is None else Failure(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `result` is JSON."""

    status: RunStatus
    result: bytes | None = None
    failure: Failure | None = None
    exhausted: Dimension = Dimension.NONE


@dataclass(slots=True)
class Invocation:
    """An envelope that passed the door's checks. Limits at 0 take the tenant's defaults."""

    run_id: UUID
    tenant: str
    intent: str
    idempotency_key: str
    fingerprint: bytes
    envelope: bytes
    user: str = ""
    shape: int = 1
    correlation_id: str = ""
    session_id: str = ""
    ordering_key: str = ""
    priority: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    agent_version: str = ""
    limits: Limits = NO_LIMITS
    not_before: datetime | None = None
    max_attempts: int = 5
    # The budget under which it may go on in the background; None if it may not move there.
    handoff: Limits | None = None

    @property
    def lane(self) -> str:
        """What it goes through one at a time with others: its session's lane, or its ordering key."""
        return lane_of(self.ordering_key, self.session_id)


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """A lease, named: what a fence compares."""

    run_id: UUID
    epoch: int


@dataclass(slots=True)
class Leased:
    """A run that a runner session holds from `lease_time` on; `remaining_s` from then until its deadline."""

    run_id: UUID
    session_id: UUID
    epoch: int
    attempt: int
    max_attempts: int
    tenant: str
    intent: str
    envelope: bytes
    limits: Limits
    create_time: datetime
    lease_time: datetime
    remaining_s: float
    last_commit: int
    last_sequence: int
    usage: Usage
    cancel_requested: bool
    mail_last: int = 0
    """The sequence of the last signal it was sent."""
    lent: Usage = NOTHING_SPENT
    """What of its limits is set aside for its children."""
    undoing: Failure | None = None
    """Why its steps are to be undone, if they are."""
    waits: int = 0
    """How often it has been parked."""
    shape: int = 1


@dataclass(slots=True)
class Admitted:
    """The run an invocation stands for; `created` is False if an earlier call made it.

    `lease` is set if the run was placed straight on a runner; then `status` is RUNNING.
    """

    run_id: UUID
    created: bool
    status: RunStatus
    pool: str
    seq: int
    create_time: datetime
    deadline_time: datetime
    limits: Limits
    lease: Leased | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """An invocation that was not admitted, alone of its group."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class ServedIntent:
    """An intent a runner serves, at a version of the code, and the versions whose runs it can go on with."""

    intent: str
    agent_version: str
    compatible_versions: tuple[str, ...] = ()
    max_concurrent: int = 0
    on_input: InputPolicy = InputPolicy.ENQUEUE
    critical: tuple[str, ...] = ()
    """Destinations without which its runs do not start: they wait while the breaker of one is open."""

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools its runs wait in."""
        return (
            self.intent,
            pool_of(self.intent, self.agent_version),
            *(pool_of(self.intent, version) for version in self.compatible_versions),
        )


@dataclass(slots=True)
class RunView:
    """A run as it stands. `result` and `envelope` are None where a list leaves them out."""

    run_id: UUID
    seq: int
    tenant: str
    user: str
    intent: str
    shape: int
    idempotency_key: str
    correlation_id: str
    session_id: str
    ordering_key: str
    priority: int
    labels: dict[str, str]
    agent_version: str
    status: RunStatus
    attempt: int
    max_attempts: int
    epoch: int
    limits: Limits
    usage: Usage
    last_sequence: int
    cancel_requested: bool
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    deadline_time: datetime
    now: datetime
    last_failure: Failure | None
    outcome: Outcome | None
    envelope: bytes | None
    handed_off: bool = False
    forked_from: tuple[UUID, int] | None = None
    """The run whose steps it began with, and up to which position."""
    parent_run_id: UUID | None = None
    """The run that started it."""
    lent: Usage = NOTHING_SPENT
    """What of its limits is set aside for children that have not ended."""
    undoing: Failure | None = None
    """Why its steps are or were undone, if they are or were."""
    paused: str | None = None
    """Why a person holds it; None if nobody does."""
    pool: str = ""
    """What a runner must serve to take it."""


@dataclass(frozen=True, slots=True)
class TranscriptRow:
    """A piece of a run's transcript: a batch of the runner's events, or one note of the platform."""

    first_sequence: int
    last_sequence: int
    events: bytes | None
    note: dict[str, object] | None
    create_time: datetime


def limits_of(row: Mapping[str, Any]) -> Limits:
    """Return the five limits among a row's columns."""
    return Limits(
        row["deadline_ms"], row["max_steps"], row["max_tools"], row["max_tokens"], row["max_context"]
    )


def intent_of(pool: str) -> str:
    """Return the intent of a pool's runs as callers name it: of chunks of its light items, too."""
    return named_intent(pool.partition("@")[0])


def pool_of(intent: str, agent_version: str) -> str:
    """Name the pool in which a run waits: what a runner must serve to take it."""
    return f"{intent}@{agent_version}" if agent_version else intent
