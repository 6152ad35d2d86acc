"""Every way a call can be refused has one class, which knows its status code and its reason.

    Fault
    ├── InvalidArgument         INVALID_ARGUMENT
    │   ├── InvalidField            INVALID_FIELD
    │   └── StreamProtocol          STREAM_PROTOCOL
    ├── NotFound                NOT_FOUND
    │   ├── UnknownIntent           UNKNOWN_INTENT
    │   ├── RunNotFound             RUN_NOT_FOUND
    │   ├── EffectNotFound          EFFECT_NOT_FOUND
    │   ├── DestinationNotFound     DESTINATION_NOT_FOUND
    │   ├── ApprovalNotFound        APPROVAL_NOT_FOUND
    │   ├── BatchNotFound           BATCH_NOT_FOUND
    │   ├── ScheduleNotFound        SCHEDULE_NOT_FOUND
    │   ├── TenantNotFound          TENANT_NOT_FOUND
    │   ├── EventNotFound           EVENT_NOT_FOUND
    │   ├── SessionNotFound         SESSION_NOT_FOUND
    │   └── TokenNotFound           TOKEN_NOT_FOUND
    ├── AlreadyExists           ALREADY_EXISTS
    │   ├── IdempotencyKeyReused    IDEMPOTENCY_KEY_REUSED
    │   ├── RunIdTaken              RUN_ID_TAKEN
    │   ├── SignalIdReused          SIGNAL_ID_REUSED
    │   └── ScheduleExists          SCHEDULE_EXISTS
    ├── ResourceExhausted       RESOURCE_EXHAUSTED
    │   ├── QueueFull               QUEUE_FULL
    │   ├── RateLimited             RATE_LIMITED
    │   ├── TooManyCalls            TOO_MANY_CALLS
    │   ├── BudgetExceeded          BUDGET_EXCEEDED
    │   └── MailboxFull             MAILBOX_FULL
    ├── Forbidden               PERMISSION_DENIED
    │   ├── TenantMismatch          TENANT_MISMATCH
    │   ├── PermissionDenied        PERMISSION_DENIED
    │   ├── NotAnApprover           NOT_AN_APPROVER
    │   └── CapabilityRefused       CAPABILITY_REFUSED
    ├── Unauthenticated         UNAUTHENTICATED / UNAUTHENTICATED
    ├── FailedPrecondition      FAILED_PRECONDITION
    │   ├── RunEnded                RUN_ENDED
    │   ├── RunNotRetryable         RUN_NOT_RETRYABLE
    │   ├── RunNotForkable          RUN_NOT_FORKABLE
    │   ├── EffectNotRetryable      EFFECT_NOT_RETRYABLE
    │   ├── ApprovalDecided         APPROVAL_DECIDED
    │   ├── DestinationRefused      DESTINATION_REFUSED
    │   ├── SessionUnknown          SESSION_UNKNOWN
    │   ├── CommitOutOfOrder        COMMIT_OUT_OF_ORDER
    │   ├── SessionInUse            SESSION_IN_USE
    │   ├── SessionConflict         SESSION_CONFLICT
    │   ├── InputRejected           INPUT_REJECTED
    │   ├── TooManyChildren         TOO_MANY_CHILDREN
    │   └── BatchNotReady           BATCH_NOT_READY
    ├── Fenced                  ABORTED / FENCED
    ├── SequenceOutOfRange      OUT_OF_RANGE / SEQUENCE_OUT_OF_RANGE
    ├── Unavailable             UNAVAILABLE
    │   ├── LedgerUnavailable       LEDGER_UNAVAILABLE
    │   ├── RunnerUnreachable       RUNNER_UNREACHABLE
    │   ├── ShuttingDown            SHUTTING_DOWN
    │   └── IdentityUnavailable     IDENTITY_UNAVAILABLE
    ├── NotYetAvailable         UNIMPLEMENTED / NOT_YET_AVAILABLE
    └── Internal                INTERNAL / INTERNAL

The classes in the middle are for `except`; only the leaves are raised.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

_NO_FACTS: Mapping[str, str] = MappingProxyType({})


class Status(StrEnum):
    """The gRPC status codes, by name, without gRPC."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is not as it must be: its path in the request, and what is wrong with it."""

    field: str
    description: str


class Fault(Exception):  # noqa: N818 - the house's word for a refusal; "Error" would say less
    """A refusal with a status code and a reason: the base of all, never raised itself.

    `message` reaches the client: it holds no payload and no text of another exception. `facts` become
    `ErrorInfo.metadata`, `violations` `BadRequest`, `retry_after` (seconds) `RetryInfo`, and `quota`
    (the name of what ran out) `QuotaFailure`.
    """

    status: ClassVar[Status]
    reason: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        facts: Mapping[str, str] = _NO_FACTS,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        quota: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.quota = quota


class InvalidArgument(Fault):
    """The request can never succeed as it is."""

    status = Status.INVALID_ARGUMENT


class InvalidField(InvalidArgument):
    """A field is malformed; the violations name each one."""

    reason = "INVALID_FIELD"


class StreamProtocol(InvalidArgument):
    """A message came out of order on a stream."""

    reason = "STREAM_PROTOCOL"


class NotFound(Fault):
    """The tenant has no such thing."""

    status = Status.NOT_FOUND


class UnknownIntent(NotFound):
    """No runner has ever served this intent; the facts hold `known`."""

    reason = "UNKNOWN_INTENT"


class RunNotFound(NotFound):
    """The tenant has no run of this id."""

    reason = "RUN_NOT_FOUND"


class EffectNotFound(NotFound):
    """The tenant has no effect of this id."""

    reason = "EFFECT_NOT_FOUND"


class DestinationNotFound(NotFound):
    """The tenant has no destination of this name."""

    reason = "DESTINATION_NOT_FOUND"


class ApprovalNotFound(NotFound):
    """The tenant has no approval of this id."""

    reason = "APPROVAL_NOT_FOUND"


class BatchNotFound(NotFound):
    """The tenant has no batch of this id."""

    reason = "BATCH_NOT_FOUND"


class ScheduleNotFound(NotFound):
    """The tenant has no schedule of this name."""

    reason = "SCHEDULE_NOT_FOUND"


class TenantNotFound(NotFound):
    """There is no such tenant."""

    reason = "TENANT_NOT_FOUND"


class EventNotFound(NotFound):
    """The tenant has no refused event of this id."""

    reason = "EVENT_NOT_FOUND"


class SessionNotFound(NotFound):
    """The tenant has saved no session of this id."""

    reason = "SESSION_NOT_FOUND"


class TokenNotFound(NotFound):
    """The tenant has no token of this id."""

    reason = "TOKEN_NOT_FOUND"


class AlreadyExists(Fault):
    """Something else holds the name that the request wants."""

    status = Status.ALREADY_EXISTS


class IdempotencyKeyReused(AlreadyExists):
    """The key stands for another request; the facts hold `run_id` of the run that has it."""

    reason = "IDEMPOTENCY_KEY_REUSED"


class RunIdTaken(AlreadyExists):
    """The run id belongs to a run with another idempotency key."""

    reason = "RUN_ID_TAKEN"


class SignalIdReused(AlreadyExists):
    """The run was sent another signal under this id."""

    reason = "SIGNAL_ID_REUSED"


class ScheduleExists(AlreadyExists):
    """The name stands for a different schedule; the facts hold `name`."""

    reason = "SCHEDULE_EXISTS"


class ResourceExhausted(Fault):
    """A limit is reached; `quota` names it."""

    status = Status.RESOURCE_EXHAUSTED


class QueueFull(ResourceExhausted):
    """The tenant's queue is full; `retry_after` says when to come again."""

    reason = "QUEUE_FULL"


class RateLimited(ResourceExhausted):
    """The tenant calls faster than its rate; `retry_after` says when to come again."""

    reason = "RATE_LIMITED"


class TooManyCalls(ResourceExhausted):
    """As many calls are in flight as the server takes; `retry_after` says when to come again."""

    reason = "TOO_MANY_CALLS"


class BudgetExceeded(ResourceExhausted):
    """A commit would spend more than the run's budget; the facts hold `dimension`."""

    reason = "BUDGET_EXCEEDED"


class MailboxFull(ResourceExhausted):
    """Too much waits in the run's mailbox; the facts hold `waiting` and `bytes`."""

    reason = "MAILBOX_FULL"


class Forbidden(Fault):
    """The caller is known and may not do this."""

    status = Status.PERMISSION_DENIED


class TenantMismatch(Forbidden):
    """`caller.tenant` is not the tenant of the credential."""

    reason = "TENANT_MISMATCH"


class PermissionDenied(Forbidden):
    """The caller's roles do not allow this call."""

    reason = "PERMISSION_DENIED"


class NotAnApprover(Forbidden):
    """Only a listed approver may decide."""

    reason = "NOT_AN_APPROVER"


class CapabilityRefused(Forbidden):
    """The call needs the capability of a lease, and has none that fits; the facts hold `run_id`."""

    reason = "CAPABILITY_REFUSED"


class Unauthenticated(Fault):
    """There is no credential, or it does not verify."""

    status = Status.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class FailedPrecondition(Fault):
    """The thing exists and is in a state that does not allow this."""

    status = Status.FAILED_PRECONDITION


class RunEnded(FailedPrecondition):
    """The run has ended; the facts hold `status`."""

    reason = "RUN_ENDED"


class RunNotRetryable(FailedPrecondition):
    """The run is not in a state from which it can be retried."""

    reason = "RUN_NOT_RETRYABLE"


class RunNotForkable(FailedPrecondition):
    """The run's recorded steps are no longer kept: no run can begin with them."""

    reason = "RUN_NOT_FORKABLE"


class EffectNotRetryable(FailedPrecondition):
    """The effect is not in a state from which it can be retried or discarded."""

    reason = "EFFECT_NOT_RETRYABLE"


class ApprovalDecided(FailedPrecondition):
    """Someone else has decided; the facts say who and what."""

    reason = "APPROVAL_DECIDED"


class DestinationRefused(FailedPrecondition):
    """The destination's address is not one the operator allows."""

    reason = "DESTINATION_REFUSED"


class SessionUnknown(FailedPrecondition):
    """The runner session has ended; its runner must open a new one."""

    reason = "SESSION_UNKNOWN"


class CommitOutOfOrder(FailedPrecondition):
    """A commit's number is not the one after the last acknowledged."""

    reason = "COMMIT_OUT_OF_ORDER"


class SessionInUse(FailedPrecondition):
    """A run of the session has not ended; the facts hold its `run_id`."""

    reason = "SESSION_IN_USE"


class SessionConflict(FailedPrecondition):
    """The session is not as the run found it when it started."""

    reason = "SESSION_CONFLICT"


class InputRejected(FailedPrecondition):
    """The agent takes no input while a run of it is going on."""

    reason = "INPUT_REJECTED"


class TooManyChildren(FailedPrecondition):
    """A run may have no more children, or none at its depth; the facts hold `limit`."""

    reason = "TOO_MANY_CHILDREN"


class BatchNotReady(FailedPrecondition):
    """The batch stands where the call makes no sense; the facts hold its `status`."""

    reason = "BATCH_NOT_READY"


class Fenced(Fault):
    """The lease belongs to another epoch; whoever holds this one must stop."""

    status = Status.ABORTED
    reason = "FENCED"


class SequenceOutOfRange(Fault):
    """The cursor is beyond the end of the stream."""

    status = Status.OUT_OF_RANGE
    reason = "SEQUENCE_OUT_OF_RANGE"


class Unavailable(Fault):
    """The same call may succeed later, unchanged."""

    status = Status.UNAVAILABLE


class LedgerUnavailable(Unavailable):
    """The ledger cannot be reached: nothing was changed, or the outcome is unknown."""

    reason = "LEDGER_UNAVAILABLE"


class RunnerUnreachable(Unavailable):
    """The runner that holds the run cannot be reached now."""

    reason = "RUNNER_UNREACHABLE"


class ShuttingDown(Unavailable):
    """This process is draining; another one will serve the call."""

    reason = "SHUTTING_DOWN"


class IdentityUnavailable(Unavailable):
    """Who calls cannot be found out now, as the issuer of credentials does not answer."""

    reason = "IDENTITY_UNAVAILABLE"


class NotYetAvailable(Fault):
    """The contract holds the call, this release does not serve it yet."""

    status = Status.UNIMPLEMENTED
    reason = "NOT_YET_AVAILABLE"


class Internal(Fault):
    """A fault of ours; the facts hold `error_id`, which the log line has too."""

    status = Status.INTERNAL
    reason = "INTERNAL"


def _leaves(kind: type[Fault]) -> Iterator[type[Fault]]:
    if "reason" in kind.__dict__:
        yield kind
    for child in kind.__subclasses__():
        yield from _leaves(child)


FAULTS: Mapping[str, type[Fault]] = MappingProxyType({kind.reason: kind for kind in _leaves(Fault)})
"""Every reason of this module with its class."""
