"""An async client over the contract: every call names its run, every stream resumes from a cursor."""

from holdfast.client import errors
from holdfast.client.acting import Acted, Action, Skipped, Which
from holdfast.client.approval import Approval, Approvals, AuditEntry, Person
from holdfast.client.client import Client
from holdfast.client.conversation import Conversation
from holdfast.client.effect import Breaker, DeliveryAttempt, Destination, Effect
from holdfast.client.errors import HoldfastError, Violation
from holdfast.client.event import Event, Rewound, Snapshot, Started, Update
from holdfast.client.handle import RunHandle, RunUnsuccessful
from holdfast.client.inbox import Inbox
from holdfast.client.number import (
    ApprovalStatus,
    BreakerState,
    BudgetDimension,
    DeliveryMode,
    EffectStatus,
    OnDisconnect,
    RunStatus,
    Shape,
    StepKind,
)
from holdfast.client.outbox import Outbox
from holdfast.client.past import Past
from holdfast.client.refused_events import RefusedEvent, RefusedEvents
from holdfast.client.retry import Retries
from holdfast.client.run import Budget, Checkpoint, Failure, Fork, Invocation, Outcome, Published, Run, Usage
from holdfast.client.session import Session, Sessions
from holdfast.client.tenant import Queue, Statistics, Tenant
from holdfast.client.tenants import Tenants
from holdfast.client.watch import Watch

__all__ = [
    "Acted",
    "Action",
    "Approval",
    "ApprovalStatus",
    "Approvals",
    "AuditEntry",
    "Breaker",
    "BreakerState",
    "Budget",
    "BudgetDimension",
    "Checkpoint",
    "Client",
    "Conversation",
    "DeliveryAttempt",
    "DeliveryMode",
    "Destination",
    "Effect",
    "EffectStatus",
    "Event",
    "Failure",
    "Fork",
    "HoldfastError",
    "Inbox",
    "Invocation",
    "OnDisconnect",
    "Outbox",
    "Outcome",
    "Past",
    "Person",
    "Published",
    "Queue",
    "RefusedEvent",
    "RefusedEvents",
    "Retries",
    "Rewound",
    "Run",
    "RunHandle",
    "RunStatus",
    "RunUnsuccessful",
    "Session",
    "Sessions",
    "Shape",
    "Skipped",
    "Snapshot",
    "Started",
    "Statistics",
    "StepKind",
    "Tenant",
    "Tenants",
    "Update",
    "Usage",
    "Violation",
    "Watch",
    "Which",
    "errors",
]
