"""After an attempt that ended without an end: the queue while attempts are left, then the dead letters."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.attempt import after_failed_attempt, after_hand_back
from holdfast.ledger.domain.backoff import CAP_S, INITIAL_S, full_jitter
from holdfast.ledger.domain.status import RunStatus


@given(st.integers(1, 100))
def test_a_run_is_tried_as_often_as_it_has_attempts(max_attempts: int) -> None:
    attempt, tried = 0, 0
    while True:
        attempt += 1
        tried += 1
        after = after_failed_attempt(attempt, max_attempts, cancel_requested=False)
        if after.status is not RunStatus.QUEUED:
            break
        attempt = after.attempt
    assert (tried, after.status) == (max_attempts, RunStatus.DEAD_LETTERED)


def test_who_asked_to_cancel_gets_no_further_attempt() -> None:
    assert after_failed_attempt(1, 5, cancel_requested=True).status is RunStatus.CANCELLED
    assert after_hand_back(1, cancel_requested=True).status is RunStatus.CANCELLED


def test_a_run_handed_back_unharmed_has_all_its_attempts() -> None:
    after = after_hand_back(5, cancel_requested=False)
    assert (after.status, after.attempt) == (RunStatus.QUEUED, 4)


@given(st.integers(1, 10_000))
def test_no_pause_is_longer_than_the_cap_or_its_step(failures: int) -> None:
    pause = full_jitter(failures, random.Random(failures).random)
    assert 0 <= pause < min(CAP_S, INITIAL_S * 2.0 ** min(failures - 1, 60)) + 1e-9


def test_a_pause_follows_a_failure() -> None:
    with pytest.raises(ValueError, match="is none"):
        full_jitter(0, random.random)
