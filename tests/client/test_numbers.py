"""The client's enumerations are the contract's."""

import pytest

from holdfast.client import number
from holdfast.v1 import effect_pb2, run_pb2, transcript_pb2

PAIRS = [
    (number.RunStatus, run_pb2.RunStatus, "RUN_STATUS_"),
    (number.Shape, run_pb2.Shape, "SHAPE_"),
    (number.BudgetDimension, run_pb2.BudgetDimension, "BUDGET_DIMENSION_"),
    (number.OnDisconnect, run_pb2.OnDisconnect, "ON_DISCONNECT_"),
    (number.StepKind, transcript_pb2.StepKind, "STEP_KIND_"),
    (number.EffectStatus, effect_pb2.EffectStatus, "EFFECT_STATUS_"),
    (number.DeliveryMode, effect_pb2.DeliveryMode, "DELIVERY_MODE_"),
    (number.BreakerState, effect_pb2.BreakerState, "BREAKER_STATE_"),
]


@pytest.mark.parametrize(("ours", "theirs", "prefix"), PAIRS)
def test_names_and_numbers_are_those_of_the_contract(
    ours: type[number.Number], theirs: object, prefix: str
) -> None:
    contract = {name.removeprefix(prefix): value for name, value in theirs.items()}  # type: ignore[attr-defined]
    assert {one.name: one.value for one in ours} == contract


def test_a_number_of_a_later_contract_reads_as_unspecified() -> None:
    assert number.RunStatus(99) is number.RunStatus.UNSPECIFIED
