"""However runs come, no stretch of time holds more of them than the bucket and what leaked out of it."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.rate import Pace

RATES = st.floats(0.5, 1000)
ROOMS = st.integers(1, 50)
PAUSES = st.floats(0, 3)


@given(RATES, ROOMS, st.lists(st.tuples(PAUSES, st.integers(1, 20)), min_size=1, max_size=30))
def test_no_stretch_of_time_starts_more_than_room_and_rate_allow(
    rate: float, room: int, groups: list[tuple[float, int]]
) -> None:
    now, spent, started = 0.0, 0.0, list[float]()
    for pause, runs in groups:
        now += pause
        pace = Pace(rate, room, spent, pause)
        for _ in range(runs):
            if pace.is_open:
                pace.take()
                started.append(now)
        spent = pace.spent
    for first, begin in enumerate(started):
        for last, end in enumerate(started[first:], first):
            assert last - first + 1 <= room + rate * (end - begin) + 1e-6


@given(RATES, ROOMS)
def test_who_was_refused_fits_when_told_and_not_much_earlier(rate: float, room: int) -> None:
    pace = Pace(rate, room, 0, 0)
    while pace.is_open:
        pace.take()
    wait = pace.refuse()
    assert Pace(rate, room, pace.spent, wait + 1e-9).is_open
    early = wait - 0.0011
    assert early <= 0 or not Pace(rate, room, pace.spent, early).is_open


def test_those_refused_together_are_not_told_the_same_moment() -> None:
    pace = Pace(10, 1, 1, 0)
    assert [pace.refuse() for _ in range(3)] == [0.1, 0.2, 0.3]


def test_a_clock_that_went_back_leaks_nothing() -> None:
    assert Pace(10, 5, 5, -60).spent == 5
