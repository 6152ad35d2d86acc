"""The table of moves leaves no run stuck and none undead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.status import ENDED, LEASED, MOVES, RETRYABLE, RunStatus, may_move


def _reachable(start: RunStatus) -> set[RunStatus]:
    seen: set[RunStatus] = set()
    edge = {start}
    while edge:
        seen |= edge
        edge = {after for status in edge for after in MOVES[status]} - seen
    return seen


def test_the_table_speaks_of_every_status() -> None:
    assert set(MOVES) == set(RunStatus)


@pytest.mark.parametrize("status", set(RunStatus) - ENDED)
def test_every_living_status_can_reach_an_end(status: RunStatus) -> None:
    assert _reachable(status) & ENDED


@pytest.mark.parametrize("status", set(RunStatus) - {RunStatus.QUEUED})
def test_every_status_is_reached_from_the_queue(status: RunStatus) -> None:
    assert status in _reachable(RunStatus.QUEUED)


@pytest.mark.parametrize("status", sorted(ENDED))
def test_an_ended_run_moves_only_by_a_retry(status: RunStatus) -> None:
    assert MOVES[status] == ({RunStatus.QUEUED} if status in RETRYABLE else set())


def test_only_a_run_in_the_queue_is_leased() -> None:
    assert [status for status in RunStatus if may_move(status, RunStatus.RUNNING)] == [RunStatus.QUEUED]


def test_what_is_leased_can_be_freed() -> None:
    assert all(may_move(status, RunStatus.QUEUED) for status in LEASED)


@given(st.lists(st.sampled_from(list(RunStatus)), max_size=50))
def test_a_walk_that_obeys_the_table_stays_inside_it(wishes: list[RunStatus]) -> None:
    status = RunStatus.QUEUED
    for wish in wishes:
        if may_move(status, wish):
            status = wish
    assert MOVES[status] or status in ENDED
