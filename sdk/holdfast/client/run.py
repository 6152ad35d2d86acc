"""A run as its client sees it: plain values, frozen, without protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.client.number import BudgetDimension, RunStatus, Shape, StepKind


@dataclass(frozen=True, slots=True)
class Budget:
    """The most a run may spend; a limit of 0 takes the tenant's default."""

    deadline_ms: int = 0
    max_steps: int = 0
    max_tools: int = 0
    max_tokens: int = 0
    max_context: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run, or a step, has spent."""

    elapsed_ms: int = 0
    steps: int = 0
    tools: int = 0
    tokens: int = 0
    context: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed."""

    reason: str
    message: str
    step: str = ""
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `exhausted` names the limit of a PARTIAL one."""

    status: RunStatus
    result: Any = None
    failure: Failure | None = None
    exhausted: BudgetDimension = BudgetDimension.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a run comes from that began with another's recorded steps, up to `position`."""

    run_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Degradation:
    """A rung of the degradation ladder that a run has taken: what it does, and which limit pressed."""

    rung: str
    dimension: BudgetDimension
    used: int
    limit: int
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One invocation of an agent for an intent, by a caller, under a budget."""

    run_id: str
    intent: str
    status: RunStatus
    tenant: str = ""
    user: str = ""
    budget: Budget = Budget()
    usage: Usage = Usage()
    outcome: Outcome | None = None
    attempt: int = 0
    last_sequence: int = 0
    last_failure: Failure | None = None
    cancel_requested: bool = False
    idempotency_key: str = ""
    correlation_id: str = ""
    session_id: str = ""
    ordering_key: str = ""
    priority: int = 0
    shape: Shape = Shape.UNSPECIFIED
    agent_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    payload: Mapping[str, Any] | None = None
    create_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    deadline_time: datetime | None = None
    handed_off: bool = False
    forked_from: Fork | None = None
    parent_run_id: str = ""
    """The run that started it as its child."""
    lent: Usage = Usage()
    """What of its limits is set aside for children that have not ended."""
    compensating: Failure | None = None
    """Why its steps are or were undone, if they are or were."""
    paused: bool = False
    """Somebody holds it: no runner executes it until it is resumed."""
    pause_reason: str = ""
    waiting_for: str = ""
    """What a runner would have to serve, where none is connected that could take it; only from `get_run`."""
    held_back: str = ""
    """What holds it back though a runner could take it: a cap, an open breaker; only from `get_run`."""
    degradations: tuple[Degradation, ...] = ()
    """The rungs it has taken, in order, as long as its events are kept; only from `get_run`."""

    @property
    def is_ended(self) -> bool:
        """Tell whether nothing more will happen, unless somebody retries it."""
        return self.status.is_ended


@dataclass(frozen=True, slots=True)
class Invocation:
    """The envelope of an invocation, as `Client.invoke` takes it by keyword; for events and conversations.

    `traceparent` is the trace the run goes on in; without one that of the call.
    """

    intent: str
    payload: Mapping[str, Any] | None = None
    idempotency_key: str = ""
    run_id: str = ""
    tenant: str = ""
    user: str = ""
    budget: Budget | None = None
    correlation_id: str = ""
    shape: Shape = Shape.UNSPECIFIED
    ordering_key: str = ""
    priority: int = 0
    session_id: str = ""
    handoff: Budget | None = None
    not_before: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    agent_version: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one event: a run, perhaps of an earlier event of the same key, or a refusal."""

    run_id: str = ""
    duplicate: bool = False
    refusal: Exception | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The record of one step of a run."""

    run_id: str
    position: int
    key: str
    kind: StepKind
    input: Any = None
    output: Any = None
    failure: Failure | None = None
    attempts: int = 0
    usage: Usage = Usage()
    duration: float = 0.0
    run_attempt: int = 0
    create_time: datetime | None = None
