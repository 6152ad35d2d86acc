# ruff: noqa: N818 - the names are the words of the contract; "Error" after each would say less
"""Why a call was refused: one class per reason of the contract, so that `except` says what is meant.

    HoldfastError
    ├── InvalidArgument             INVALID_ARGUMENT
    │   ├── InvalidField                INVALID_FIELD
    │   └── StreamProtocol              STREAM_PROTOCOL
    ├── NotFound                    NOT_FOUND
    │   ├── UnknownIntent               UNKNOWN_INTENT
    │   ├── RunNotFound                 RUN_NOT_FOUND
    │   ├── EffectNotFound              EFFECT_NOT_FOUND
    │   ├── DestinationNotFound         DESTINATION_NOT_FOUND
    │   ├── ApprovalNotFound            APPROVAL_NOT_FOUND
    │   ├── BatchNotFound               BATCH_NOT_FOUND
    │   ├── ScheduleNotFound            SCHEDULE_NOT_FOUND
    │   ├── TenantNotFound              TENANT_NOT_FOUND
    │   ├── EventNotFound               EVENT_NOT_FOUND
    │   ├── SessionNotFound             SESSION_NOT_FOUND
    │   └── TokenNotFound               TOKEN_NOT_FOUND
    ├── AlreadyExists               ALREADY_EXISTS
    │   ├── IdempotencyKeyReused        IDEMPOTENCY_KEY_REUSED
    │   ├── RunIdTaken                  RUN_ID_TAKEN
    │   ├── SignalIdReused              SIGNAL_ID_REUSED
    │   └── ScheduleExists              SCHEDULE_EXISTS
    ├── ResourceExhausted           RESOURCE_EXHAUSTED
    │   ├── QueueFull                   QUEUE_FULL
    │   ├── RateLimited                 RATE_LIMITED
    │   ├── TooManyCalls                TOO_MANY_CALLS
    │   ├── BudgetExceeded              BUDGET_EXCEEDED
    │   └── MailboxFull                 MAILBOX_FULL
    ├── Forbidden                   PERMISSION_DENIED
    │   ├── TenantMismatch              TENANT_MISMATCH
    │   ├── PermissionDenied            PERMISSION_DENIED
    │   ├── NotAnApprover               NOT_AN_APPROVER
    │   └── CapabilityRefused           CAPABILITY_REFUSED
    ├── Unauthenticated             UNAUTHENTICATED / UNAUTHENTICATED
    ├── FailedPrecondition          FAILED_PRECONDITION
    │   ├── RunEnded                    RUN_ENDED
    │   ├── RunNotRetryable             RUN_NOT_RETRYABLE
    │   ├── RunNotForkable              RUN_NOT_FORKABLE
    │   ├── EffectNotRetryable          EFFECT_NOT_RETRYABLE
    │   ├── ApprovalDecided             APPROVAL_DECIDED
    │   ├── DestinationRefused          DESTINATION_REFUSED
    │   ├── SessionUnknown              SESSION_UNKNOWN
    │   ├── CommitOutOfOrder            COMMIT_OUT_OF_ORDER
    │   ├── SessionInUse                SESSION_IN_USE
    │   ├── SessionConflict             SESSION_CONFLICT
    │   ├── InputRejected               INPUT_REJECTED
    │   ├── TooManyChildren             TOO_MANY_CHILDREN
    │   └── BatchNotReady               BATCH_NOT_READY
    ├── Fenced                      ABORTED / FENCED
    ├── SequenceOutOfRange          OUT_OF_RANGE / SEQUENCE_OUT_OF_RANGE
    ├── Unavailable                 UNAVAILABLE (without a reason: no server was reached)
    │   ├── LedgerUnavailable           LEDGER_UNAVAILABLE
    │   ├── RunnerUnreachable           RUNNER_UNREACHABLE
    │   ├── ShuttingDown                SHUTTING_DOWN
    │   └── IdentityUnavailable         IDENTITY_UNAVAILABLE
    ├── NotYetAvailable             UNIMPLEMENTED / NOT_YET_AVAILABLE
    ├── Internal                    INTERNAL / INTERNAL
    ├── DeadlineExceeded            DEADLINE_EXCEEDED, of the call, not of a run
    └── UnexpectedStatus            any other code

A reason this release does not know comes as the class of its code, with `reason` as it was sent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

_NO_FACTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is not as it must be: its path in the request, and what is wrong with it."""

    field: str
    description: str


class HoldfastError(Exception):
    """A call did not succeed; the base of all.

    `code` is the name of the gRPC status, `reason` that of the contract's `ErrorReason` (empty if none was
    sent), `facts` what a program may want of it, `violations` the malformed fields, `retry_after` the
    seconds after which to come again, `quota` what ran out.
    """

    code: str = "UNKNOWN"
    reason: str = ""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str | None = None,
        facts: Mapping[str, str] = _NO_FACTS,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        quota: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.code if code is None else code
        self.reason = self.reason if reason is None else reason
        self.facts = facts
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.quota = quota


class InvalidArgument(HoldfastError):
    """The request can never succeed as it is."""

    code = "INVALID_ARGUMENT"


class InvalidField(InvalidArgument):
    """A field is malformed; the violations name each one."""

    reason = "INVALID_FIELD"


class StreamProtocol(InvalidArgument):
    """A message came out of order on a stream."""

    reason = "STREAM_PROTOCOL"


class NotFound(HoldfastError):
    """The tenant has no such thing."""

    code = "NOT_FOUND"


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


class AlreadyExists(HoldfastError):
    """Something else holds the name that the request wants."""

    code = "ALREADY_EXISTS"


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


class ResourceExhausted(HoldfastError):
    """A limit is reached; `quota` names it."""

    code = "RESOURCE_EXHAUSTED"


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
    """More would be spent than the run's budget holds; the facts hold `dimension`."""

    reason = "BUDGET_EXCEEDED"


class MailboxFull(ResourceExhausted):
    """Too much waits in the run's mailbox: its agent must receive some of it first."""

    reason = "MAILBOX_FULL"


class Forbidden(HoldfastError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class TenantMismatch(Forbidden):
    """The envelope's tenant is not the tenant of the call."""

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


class Unauthenticated(HoldfastError):
    """There is no credential, or it does not verify."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class FailedPrecondition(HoldfastError):
    """The thing exists and is in a state that does not allow this."""

    code = "FAILED_PRECONDITION"


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


class Fenced(HoldfastError):
    """The lease belongs to another epoch; whoever holds this one must stop."""

    code = "ABORTED"
    reason = "FENCED"


class SequenceOutOfRange(HoldfastError):
    """The cursor is beyond the end of the stream."""

    code = "OUT_OF_RANGE"
    reason = "SEQUENCE_OUT_OF_RANGE"


class Unavailable(HoldfastError):
    """No server could do it now; the same call may succeed later, unchanged."""

    code = "UNAVAILABLE"


class LedgerUnavailable(Unavailable):
    """The ledger cannot be reached: nothing was changed, or the outcome is unknown."""

    reason = "LEDGER_UNAVAILABLE"


class RunnerUnreachable(Unavailable):
    """The runner that holds the run cannot be reached now."""

    reason = "RUNNER_UNREACHABLE"


class BatchNotReady(FailedPrecondition):
    """The batch stands where the call makes no sense; the facts hold its `status`."""

    reason = "BATCH_NOT_READY"


class TooManyChildren(FailedPrecondition):
    """The run may start no more children, or stands too deep for any; the facts hold `limit`."""

    reason = "TOO_MANY_CHILDREN"


class ShuttingDown(Unavailable):
    """That process is draining; another one will serve the call."""

    reason = "SHUTTING_DOWN"


class IdentityUnavailable(Unavailable):
    """Who calls cannot be found out now, as the issuer of credentials does not answer."""

    reason = "IDENTITY_UNAVAILABLE"


class NotYetAvailable(HoldfastError):
    """The contract holds the call, that release does not serve it yet."""

    code = "UNIMPLEMENTED"
    reason = "NOT_YET_AVAILABLE"


class Internal(HoldfastError):
    """A fault of the server's; the facts hold `error_id`, which its log has too."""

    code = "INTERNAL"
    reason = "INTERNAL"


class DeadlineExceeded(HoldfastError):
    """The call took longer than it was given; its outcome is unknown."""

    code = "DEADLINE_EXCEEDED"


class UnexpectedStatus(HoldfastError):
    """A status the contract does not speak of."""


def _family(kind: type[HoldfastError]) -> Iterator[type[HoldfastError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


BY_REASON: Mapping[str, type[HoldfastError]] = MappingProxyType(
    {kind.reason: kind for kind in _family(HoldfastError) if "reason" in kind.__dict__ and kind.reason}
)
"""Every reason of the contract with its class."""

BY_CODE: Mapping[str, type[HoldfastError]] = MappingProxyType(
    {kind.code: kind for kind in HoldfastError.__subclasses__() if "code" in kind.__dict__}
)
"""Every code the contract speaks of with the class that stands for it alone."""
