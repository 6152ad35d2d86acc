"""Who may call what: one rule for each RPC of the contract, and no call without one.

A rule names roles of which one is enough. `platform` asks for a credential of the platform, `audited` has
the call kept in the audit, `leased` is what a runner does about one run, for which it shows that run's
capability, and `carried` is for callers that can send no metadata: their credential may be in the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from holdfast.kit.auth.role import ADMIN, APPROVE, INVOKE, OPERATE, READ, RUNNER, SCALER


@dataclass(frozen=True, slots=True)
class Rule:
    """What an RPC asks of its caller; without roles any credential does."""

    roles: frozenset[str] = frozenset()
    platform: bool = False
    audited: bool = False
    leased: bool = False
    carried: bool = False


def _rule(*roles: str, platform: bool = False, audited: bool = False, leased: bool = False) -> Rule:
    return Rule(frozenset(roles), platform, audited, leased)


_READ: Final = _rule(READ)
_OPERATE: Final = _rule(OPERATE, audited=True)
_STOP: Final = _rule(INVOKE, OPERATE, audited=True)
_SPEAK: Final = _rule(INVOKE, OPERATE)
_RUNNER: Final = _rule(RUNNER, platform=True, leased=True)

_SERVICES: Final[Mapping[str, Mapping[str, Rule]]] = {
    "AccessService": {
        "WhoAmI": _rule(),
        "CreateToken": _rule(ADMIN, audited=True),
        "ListTokens": _rule(ADMIN),
        "RevokeToken": _rule(ADMIN, audited=True),
        "ListAuditRecords": _rule(ADMIN),
    },
    "InvokerService": {
        "Invoke": _rule(INVOKE, RUNNER, leased=True),
        "AwaitRun": _READ,
        "Converse": _rule(INVOKE),
        "WatchRun": _READ,
        "GetRun": _READ,
        "ListRuns": _READ,
        "CancelRun": _rule(INVOKE, OPERATE, RUNNER, audited=True, leased=True),
        "InterruptRun": _SPEAK,
        "SignalRun": _SPEAK,
        "RetryRun": _OPERATE,
        "PauseRun": _OPERATE,
        "ResumeRun": _OPERATE,
        "ActOnRuns": _OPERATE,
        "GetSession": _READ,
        "DeleteSession": _STOP,
    },
    "EventService": {
        "PublishEvents": _rule(INVOKE),
        "SetAsideEvents": _rule(INVOKE),
        "ListRefusedEvents": _READ,
        "RetryRefusedEvent": _OPERATE,
        "DiscardRefusedEvent": _OPERATE,
    },
    "WorkService": {"Lease": _rule(RUNNER, platform=True)},
    "RunnerService": {"Attach": _rule(RUNNER, platform=True), "Drain": _rule(RUNNER, platform=True)},
    "CheckpointService": {
        "Commit": _RUNNER,
        "LoadRun": _RUNNER,
        "ListCheckpoints": _READ,
        "ForkRun": _OPERATE,
    },
    "ApprovalService": {
        "RequestApproval": _RUNNER,
        "DecideApproval": _rule(APPROVE, audited=True),
        "GetApproval": _READ,
        "ListApprovals": _READ,
        "WatchApprovals": _READ,
    },
    "OutboxService": {
        "ListEffects": _READ,
        "GetEffect": _READ,
        "RetryEffect": _OPERATE,
        "DiscardEffect": _OPERATE,
        "ActOnEffects": _OPERATE,
        "PutDestination": _rule(ADMIN, audited=True),
        "ListDestinations": _READ,
        "ResetBreaker": _OPERATE,
    },
    "TenantService": {
        "PutTenant": _rule(ADMIN, platform=True, audited=True),
        "UpdateTenant": _rule(ADMIN, platform=True, audited=True),
        "GetTenant": _READ,
        "ListTenants": _rule(OPERATE, platform=True),
        "GetTenantStatistics": _READ,
    },
    "BatchService": {
        "CreateBatch": _rule(INVOKE),
        "StartBatch": _rule(INVOKE),
        "GetBatch": _READ,
        "ListBatches": _READ,
        "ListBatchItems": _READ,
        "WatchBatch": _READ,
        "SampleBatch": _READ,
        "ReviewItems": _rule(APPROVE, audited=True),
        "ApplyBatch": _rule(APPROVE, OPERATE, audited=True),
        "RollbackBatch": _OPERATE,
        "PauseBatch": _STOP,
        "ResumeBatch": _STOP,
        "CancelBatch": _STOP,
        "RetryBatchItems": _OPERATE,
        "UpdateBatch": _STOP,
        "ExportBatch": _READ,
    },
    "ScheduleService": {
        "CreateSchedule": _OPERATE,
        "UpdateSchedule": _OPERATE,
        "GetSchedule": _READ,
        "ListSchedules": _READ,
        "DeleteSchedule": _OPERATE,
        "PauseSchedule": _OPERATE,
        "ResumeSchedule": _OPERATE,
        "TriggerSchedule": _rule(INVOKE, OPERATE, audited=True),
        "BackfillSchedule": _OPERATE,
        "PreviewSchedule": _READ,
    },
}

_SCALER: Final = Rule(frozenset({SCALER, OPERATE}), platform=True, carried=True)
_KEDA: Final = ("IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics")

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        f"/holdfast.v1.{service}/{method}": rule
        for service, methods in _SERVICES.items()
        for method, rule in methods.items()
    }
    | {f"/externalscaler.ExternalScaler/{method}": _SCALER for method in _KEDA}
)
"""The rule of each RPC by its full method name; an RPC without one is refused to everybody."""
