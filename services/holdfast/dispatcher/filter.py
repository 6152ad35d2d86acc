"""Which effects a call means, read field by field."""

from typing import Any, Final

from holdfast.kit.rpc.violation import Violations
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.outbox_inspect import EffectFilter
from holdfast.v1 import outbox_service_pb2 as pb

_KNOWN: Final = frozenset(int(status) for status in EffectStatus)


def filter_of(violations: Violations, request: pb.ListEffectsRequest, within: str = "") -> EffectFilter:
    """Read a filter, and note what is wrong under the names of its fields, which begin with `within`."""
    violations.text(f"{within}destination", request.destination, required=False)
    return EffectFilter(
        statuses=_statuses(violations, f"{within}statuses", request.statuses),
        destination=request.destination,
        run_id=violations.uuid(f"{within}run_id", request.run_id) if request.run_id else None,
    )


def _statuses(violations: Violations, field: str, asked: Any) -> frozenset[EffectStatus]:
    for at, status in enumerate(asked):
        if status not in _KNOWN:
            violations.add(f"{field}[{at}]", "must be one of EffectStatus")
    return frozenset(EffectStatus(status) for status in asked if status in _KNOWN)
