"""Where an invocation is put is decided by its tenant's room, its key's lane and its delay."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.admission import Door, Room, Where


def door(*held: str, in_flight: int = 0, cap: int = 10, queued: int = 0, depth: int = 10) -> Door:
    return Door(Room(in_flight, cap, queued, depth), held)


def test_a_run_behind_another_of_its_key_waits() -> None:
    passing = door()
    assert passing.enter(ordering_key="k", delayed=False, to_runner=False) is Where.READY
    assert passing.enter(ordering_key="k", delayed=False, to_runner=False) is Where.BLOCKED
    assert passing.enter(ordering_key="other", delayed=False, to_runner=False) is Where.READY


def test_a_delayed_run_holds_its_lane() -> None:
    passing = door()
    assert passing.enter(ordering_key="k", delayed=True, to_runner=False) is Where.DELAYED
    assert not passing.may_lease(ordering_key="k", delayed=False)
    assert passing.enter(ordering_key="k", delayed=False, to_runner=False) is Where.BLOCKED


def test_a_run_goes_straight_to_a_runner_only_below_the_cap() -> None:
    assert door(in_flight=9).may_lease(ordering_key="", delayed=False)
    assert not door(in_flight=10).may_lease(ordering_key="", delayed=False)


def test_a_full_queue_refuses_what_would_wait_and_only_that() -> None:
    full = door(queued=10)
    assert full.enter(ordering_key="", delayed=False, to_runner=False) is Where.REFUSED
    assert full.enter(ordering_key="", delayed=False, to_runner=True) is Where.RUNNER


def test_a_refused_run_does_not_take_its_lane() -> None:
    full = door(queued=10)
    full.enter(ordering_key="k", delayed=False, to_runner=False)
    assert full.may_lease(ordering_key="k", delayed=False)


@given(
    st.lists(st.tuples(st.sampled_from(["", "k", "l"]), st.booleans(), st.booleans()), max_size=40),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_counters_equal_what_was_let_in(wishes: list[tuple[str, bool, bool]], cap: int, depth: int) -> None:
    passing = door(cap=cap, depth=depth)
    put = []
    for key, delayed, runner_free in wishes:
        to_runner = runner_free and passing.may_lease(ordering_key=key, delayed=delayed)
        put.append((key, passing.enter(ordering_key=key, delayed=delayed, to_runner=to_runner)))
    assert passing.in_flight == sum(where is Where.RUNNER for _, where in put) <= cap
    waiting = (Where.READY, Where.BLOCKED, Where.DELAYED)
    assert passing.queued == sum(where in waiting for _, where in put) <= depth
    for key in ("k", "l"):
        ahead = [where for k, where in put if k == key and where is not Where.REFUSED]
        assert all(where is Where.BLOCKED for where in ahead[1:])
