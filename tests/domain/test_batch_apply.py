"""What is to be done next for a staged batch, and how a sample is spread, for all numbers there are."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.batch import BatchStatus, ItemStatus, is_over
from holdfast.ledger.domain.batch_apply import (
    APPLY_CHUNK,
    Applied,
    Apply,
    Begin,
    Meet,
    Policy,
    Wait,
    Work,
    allowance,
    allowed_in,
    next_work,
)
from holdfast.ledger.domain.batch_sample import allot


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12), st.integers(1, 300), st.booleans())
def test_a_sample_is_as_large_as_asked_and_leaves_no_stratum_unseen(
    populations: list[int],
    size: int,
    equal: bool,  # noqa: FBT001 - drawn
) -> None:
    given_ = allot(populations, size, equal=equal)
    assert sum(given_) == min(size, sum(populations))
    assert all(n <= there for n, there in zip(given_, populations, strict=True))
    living = sum(there > 0 for there in populations)
    if size >= living:
        assert all(n > 0 for n, there in zip(given_, populations, strict=True) if there)
    if equal and size >= living:
        full = [n for n, there in zip(given_, populations, strict=True) if n < there]
        assert not full or max(full) - min(full) <= 1


def test_98_of_100_of_200_is_met_at_196_and_not_at_195() -> None:
    policy = Policy(0.98, 200)
    assert policy.met(200, 196)
    assert not policy.met(200, 195)
    assert not policy.met(199, 199), "too few were judged"
    assert not Policy().met(1000, 1000), "without a share nothing is met"


@given(st.integers(0, 9000), st.integers(0, 9000), st.integers(1, 9000), st.none() | st.integers(0, 900))
def test_never_more_is_on_its_way_than_the_window_and_the_rate_allow(
    accepted: int, flying: int, window: int, allowed: int | None
) -> None:
    counts = {ItemStatus.ACCEPTED: accepted, ItemStatus.APPLYING: flying}
    step = next_work(Work(BatchStatus.APPLYING, counts, window=window, allowed=allowed))
    if isinstance(step, Apply):
        assert 0 < step.items <= min(accepted, APPLY_CHUNK)
        assert flying + step.items <= window
        assert allowed is None or step.items <= allowed
    else:
        assert isinstance(step, Applied if not accepted and not flying else Wait)


def test_a_policy_is_met_once_and_applies_only_when_the_rest_is_judged() -> None:
    work = Work(BatchStatus.IN_REVIEW, policy=Policy(0.5, 1), judged=1, accepted=1, applies_when_met=True)
    assert next_work(work) == Meet()
    judged = Work(BatchStatus.IN_REVIEW, met=True, applies_when_met=True)
    assert next_work(judged) == Begin()


@given(st.floats(0.001, 1000), st.floats(0, 100))
def test_a_rate_saves_up_a_second_and_at_least_one_item(per_second: float, waited: float) -> None:
    allowed = allowance(per_second, waited)
    assert allowed is not None
    assert 0 <= allowed <= max(1.0, per_second) + 1
    assert allowed <= per_second * waited + 1e-3
    assert allowance(per_second, waited + allowed_in(per_second, waited)) != 0


def test_what_the_rate_holds_back_says_until_when() -> None:
    counts = {ItemStatus.ACCEPTED: 3, ItemStatus.APPLYING: 1}
    work = Work(BatchStatus.APPLYING, counts, allowed=0, allowed_in_s=0.25)
    assert next_work(work) == Wait(seconds=0.25)
    assert next_work(replace(work, window=1)) == Wait(), "there is no room either"


def test_a_batch_is_over_when_it_has_ended_and_nothing_is_on_its_way() -> None:
    there = {ItemStatus.APPLIED: 3, ItemStatus.SKIPPED: 1}
    assert is_over(BatchStatus.CANCELLED, there, undoing=0)
    assert not is_over(BatchStatus.CANCELLED, there, undoing=1)
    assert not is_over(BatchStatus.IN_REVIEW, there, undoing=0)
    for moving in (ItemStatus.PENDING, ItemStatus.RUNNING, ItemStatus.APPLYING):
        assert not is_over(BatchStatus.CANCELLED, there | {moving: 1}, undoing=0)
        assert is_over(BatchStatus.CANCELLED, there | {moving: 0}, undoing=0)
