"""Every reason of the contract has one class on each side, and travels between them whole."""

import re
from types import ModuleType

import grpc
import pytest
from grpc.aio import Metadata

from holdfast.client import errors
from holdfast.client.wire_status import error_of
from holdfast.kit import errors as faults
from holdfast.kit.rpc.status import to_grpc
from holdfast.v1 import error_reason_pb2

REASONS = [
    name.removeprefix("ERROR_REASON_")
    for name, number in error_reason_pb2.ErrorReason.items()
    if number != error_reason_pb2.ERROR_REASON_UNSPECIFIED
]


def sent(fault: faults.Fault) -> errors.HoldfastError:
    """Return what a client makes of a fault, through the status as it goes over the wire."""
    status = to_grpc(fault)
    trailing = Metadata(*status.trailing_metadata)
    return error_of(grpc.aio.AioRpcError(status.code, Metadata(), trailing, details=status.details))


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_comes_back_as_the_class_of_the_same_name(reason: str) -> None:
    fault = faults.FAULTS[reason]("no")
    error = sent(fault)
    assert type(error) is errors.BY_REASON[reason]
    assert type(error).__name__ == type(fault).__name__
    assert (error.reason, error.code, error.message) == (reason, fault.status.value, "no")
    assert (type(error).reason, type(error).code) == (reason, fault.status.value)


def test_no_side_knows_a_reason_that_the_contract_does_not_have() -> None:
    assert set(errors.BY_REASON) == set(faults.FAULTS) == set(REASONS)


def test_the_trees_of_both_sides_have_the_same_branches() -> None:
    for reason, kind in errors.BY_REASON.items():
        ours = [parent.__name__ for parent in kind.__mro__]
        theirs = [parent.__name__ for parent in faults.FAULTS[reason].__mro__]
        assert [name.replace("HoldfastError", "Fault") for name in ours] == theirs


@pytest.mark.parametrize("side", [faults, errors], ids=["services", "client"])
@pytest.mark.parametrize("reason", REASONS)
def test_each_class_stands_in_the_tree_that_is_drawn(side: ModuleType, reason: str) -> None:
    (row,) = re.findall(rf"^.*── {faults.FAULTS[reason].__name__} .*$", side.__doc__ or "", re.MULTILINE)
    assert row.split()[-1] == reason


def test_everything_a_fault_says_of_itself_arrives() -> None:
    fault = faults.QueueFull(
        "full",
        facts={"queued": "7"},
        violations=[faults.Violation("budget.max_steps", "must not be negative")],
        retry_after=1.25,
        quota="queued runs",
    )
    error = sent(fault)
    assert error.facts == {"queued": "7"}
    assert error.violations == (errors.Violation("budget.max_steps", "must not be negative"),)
    assert (error.retry_after, error.quota) == (1.25, "queued runs")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.DATA_LOSS, errors.UnexpectedStatus),
    ],
)
def test_a_status_without_a_reason_is_judged_by_its_code(
    code: grpc.StatusCode, kind: type[errors.HoldfastError]
) -> None:
    error = error_of(grpc.aio.AioRpcError(code, Metadata(), Metadata(), details="gone"))
    assert type(error) is kind
    assert (error.reason, error.code) == ("", code.name)


def test_details_that_cannot_be_read_do_not_hide_the_code() -> None:
    trailing = Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = error_of(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, Metadata(), trailing, details="x"))
    assert type(error) is errors.NotFound
