"""However many want to send again, no more do than the budget says."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.retry_budget import RetryBudget

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@given(
    st.floats(0.001, 100_000),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500)), min_size=1, max_size=40),
)
def test_no_more_are_sent_again_than_the_rate_and_a_burst(
    rate: float, looks: list[tuple[float, int]]
) -> None:
    used, now, sent = NOW, NOW, 0
    for pause, wanted in looks:
        now += timedelta(seconds=pause)
        budget = RetryBudget(rate, used)
        taken = min(wanted, budget.left(now))
        used, sent = budget.after(taken, now), sent + taken
        most = (now - NOW) / budget.apart + max(1.0, rate)
        assert sent <= most * 1.001 + 1


@given(st.floats(0.001, 100_000), st.integers(0, 500))
def test_a_budget_that_rested_gives_a_burst_again_and_never_more(rate: float, taken: int) -> None:
    budget = RetryBudget(rate, NOW)
    rested = RetryBudget(rate, budget.after(min(taken, budget.left(NOW)), NOW))
    assert rested.left(NOW + timedelta(days=2)) == budget.left(NOW) >= 1
