"""An async client over the contract: every call names its run, every stream resumes from a cursor."""

from holdfast.client import errors
from holdfast.client.access import AccessControl, AuditRecord, MadeToken, Me, Token
from holdfast.client.acting import Acted, Action, Skipped, Which
from holdfast.client.approval import Approval, Approvals, AuditEntry, Person
from holdfast.client.batch import (
    ApplyEffect,
    ApplyTarget,
    Batch,
    BatchInput,
    BatchItem,
    BatchItemStatus,
    BatchProgress,
    BatchSource,
    BatchSpec,
    BatchStatus,
    ErrorGroup,
    FieldChange,
    FollowUp,
    ItemReview,
    Reviewed,
    ReviewPolicy,
    Stratum,
)
from holdfast.client.batches import Batches, BatchWatch
from holdfast.client.client import Client
from holdfast.client.conversation import Conversation
from holdfast.client.effect import Breaker, DeliveryAttempt, Destination, Effect
from holdfast.client.effect_acting import ActedOnEffects, EffectAction, SkippedEffect
from holdfast.client.errors import HoldfastError, Violation
from holdfast.client.event import Event, Rewound, Snapshot, Started, Update
from holdfast.client.handle import RunHandle, RunUnsuccessful
from holdfast.client.inbox import Inbox
from holdfast.client.item_file import ItemFile
from holdfast.client.number import (
    ApprovalStatus,
    BreakerState,
    BudgetDimension,
    DeliveryMode,
    EffectStatus,
    FireOrigin,
    FireResult,
    OnDisconnect,
    OverlapPolicy,
    RunStatus,
    Shape,
    StepKind,
)
from holdfast.client.outbox import Outbox
from holdfast.client.past import Past
from holdfast.client.refused_events import Aside, RefusedEvent, RefusedEvents
from holdfast.client.retry import Retries
from holdfast.client.run import (
    Budget,
    Checkpoint,
    Degradation,
    Failure,
    Fork,
    Invocation,
    Outcome,
    Published,
    Run,
    Usage,
)
from holdfast.client.schedule import Fire, Schedule, Timing
from holdfast.client.schedules import Schedules
from holdfast.client.session import Session, Sessions
from holdfast.client.tenant import Queue, Statistics, Tenant
from holdfast.client.tenants import Tenants
from holdfast.client.tls import Tls
from holdfast.client.watch import Watch

__all__ = [
    "AccessControl",
    "Acted",
    "ActedOnEffects",
    "Action",
    "ApplyEffect",
    "ApplyTarget",
    "Approval",
    "ApprovalStatus",
    "Approvals",
    "Aside",
    "AuditEntry",
    "AuditRecord",
    "Batch",
    "BatchInput",
    "BatchItem",
    "BatchItemStatus",
    "BatchProgress",
    "BatchSource",
    "BatchSpec",
    "BatchStatus",
    "BatchWatch",
    "Batches",
    "Breaker",
    "BreakerState",
    "Budget",
    "BudgetDimension",
    "Checkpoint",
    "Client",
    "Conversation",
    "Degradation",
    "DeliveryAttempt",
    "DeliveryMode",
    "Destination",
    "Effect",
    "EffectAction",
    "EffectStatus",
    "ErrorGroup",
    "Event",
    "Failure",
    "FieldChange",
    "Fire",
    "FireOrigin",
    "FireResult",
    "FollowUp",
    "Fork",
    "HoldfastError",
    "Inbox",
    "Invocation",
    "ItemFile",
    "ItemReview",
    "MadeToken",
    "Me",
    "OnDisconnect",
    "Outbox",
    "Outcome",
    "OverlapPolicy",
    "Past",
    "Person",
    "Published",
    "Queue",
    "RefusedEvent",
    "RefusedEvents",
    "Retries",
    "ReviewPolicy",
    "Reviewed",
    "Rewound",
    "Run",
    "RunHandle",
    "RunStatus",
    "RunUnsuccessful",
    "Schedule",
    "Schedules",
    "Session",
    "Sessions",
    "Shape",
    "Skipped",
    "SkippedEffect",
    "Snapshot",
    "Started",
    "Statistics",
    "StepKind",
    "Stratum",
    "Tenant",
    "Tenants",
    "Timing",
    "Tls",
    "Token",
    "Update",
    "Usage",
    "Violation",
    "Watch",
    "Which",
    "errors",
]
