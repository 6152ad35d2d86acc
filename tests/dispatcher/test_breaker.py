"""pybreaker moves the shared state as the state diagram says, by the database's clock."""

from datetime import UTC, datetime, timedelta

import pytest

from holdfast.dispatcher.breaker import judge
from holdfast.ledger.domain.breaker import Breaker, BreakerPolicy, BreakerState, Load, permit
from holdfast.ledger.domain.delivery import BreakerVote

NOW = datetime(2001, 2, 3, tzinfo=UTC)  # far from this process's clock
POLICY = BreakerPolicy(3, timedelta(seconds=30))
WORKS, FAILS, ABSTAINS = BreakerVote.WORKS, BreakerVote.FAILS, BreakerVote.ABSTAINS
OPEN = Breaker(BreakerState.OPEN, 3, NOW, NOW + POLICY.reset_after)


def test_failures_in_a_row_open_it_until_a_probe_by_the_clock_given() -> None:
    assert judge(Breaker(), POLICY, [FAILS, FAILS], NOW) == Breaker(failures=2)
    assert judge(Breaker(failures=2), POLICY, [FAILS], NOW) == OPEN


def test_a_success_in_between_starts_the_count_anew() -> None:
    assert judge(Breaker(failures=2), POLICY, [WORKS, FAILS, FAILS], NOW) == Breaker(failures=2)
    assert judge(Breaker(failures=2), POLICY, [WORKS], NOW) == Breaker()


@pytest.mark.parametrize("before", [Breaker(failures=2), OPEN, Breaker(BreakerState.HALF_OPEN, 3, NOW, NOW)])
def test_an_abstention_changes_nothing(before: Breaker) -> None:
    assert judge(before, POLICY, [ABSTAINS, ABSTAINS], NOW) == before


def test_calls_that_were_under_way_when_it_opened_say_nothing() -> None:
    assert judge(OPEN, POLICY, [WORKS, FAILS, WORKS], NOW + timedelta(seconds=1)) == OPEN
    assert judge(Breaker(), POLICY, [FAILS, FAILS, FAILS, WORKS], NOW) == OPEN


def test_the_probe_closes_it_or_opens_it_anew() -> None:
    later = NOW + timedelta(seconds=40)
    half_open = Breaker(BreakerState.HALF_OPEN, 3, NOW, NOW + POLICY.reset_after)
    assert judge(half_open, POLICY, [WORKS], later) == Breaker()
    opened = judge(half_open, POLICY, [FAILS], later)
    assert (opened.state, opened.open_time) == (BreakerState.OPEN, later)
    assert opened.probe_time == later + POLICY.reset_after


def test_an_open_breaker_permits_one_probe_when_its_time_has_come() -> None:
    load = Load(in_flight=0, probing=False, max_concurrent=9, max_per_second=0, next_call_time=NOW)
    assert permit(OPEN, load, wanted=5, now=NOW + timedelta(seconds=29)).calls == 0
    permission = permit(OPEN, load, wanted=5, now=NOW + timedelta(seconds=30))
    assert (permission.calls, permission.probe) == (1, True)
    half_open = Breaker(BreakerState.HALF_OPEN, 3, NOW, NOW)
    probing = Load(in_flight=1, probing=True, max_concurrent=9, max_per_second=0, next_call_time=NOW)
    assert permit(half_open, probing, wanted=5, now=NOW).calls == 0
    assert permit(half_open, load, wanted=5, now=NOW).probe


def test_a_rate_never_permits_more_than_it_says() -> None:
    load = Load(in_flight=0, probing=False, max_concurrent=99, max_per_second=4, next_call_time=NOW)
    permission = permit(Breaker(), load, wanted=99, now=NOW)
    assert (permission.calls, permission.apart) == (3, timedelta(seconds=0.25))
    waiting = Load(
        in_flight=0,
        probing=False,
        max_concurrent=99,
        max_per_second=4,
        next_call_time=NOW + timedelta(seconds=0.6),
    )
    assert permit(Breaker(), waiting, wanted=99, now=NOW).calls == 0
