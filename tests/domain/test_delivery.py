"""What becomes of an effect after a call: decided alike wherever it is decided, and never without an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.delivery import Answer, DeliveryMode, EffectStatus, RetryPolicy, decide

POLICY = RetryPolicy(max_attempts=5, initial_backoff_s=0.1, max_backoff_s=2.0)


@given(
    answers=st.lists(st.sampled_from([Answer.NOT_TAKEN, Answer.UNCERTAIN]), min_size=5, max_size=5),
    random=st.floats(0, 1, exclude_max=True),
)
def test_an_effect_that_is_never_taken_is_set_aside_after_its_last_attempt(
    answers: list[Answer], random: float
) -> None:
    attempts = spent = 0
    for n, answer in enumerate(answers, start=1):
        verdict = decide(
            answer,
            attempts=attempts,
            spent=spent,
            mode=DeliveryMode.AT_LEAST_ONCE,
            policy=POLICY,
            random=lambda: random,
        )
        attempts, spent = verdict.attempts, verdict.spent
        assert (attempts, spent) == (n, n)
        assert verdict.status is (EffectStatus.PENDING if n < 5 else EffectStatus.DEAD_LETTERED)
        assert 0 <= verdict.delay_s <= 2.0


@given(
    answer=st.sampled_from(Answer),
    mode=st.sampled_from(DeliveryMode),
    attempts=st.integers(0, 100),
    spent=st.integers(0, 4),
    probe=st.booleans(),
)
def test_a_call_that_was_made_is_counted_and_one_that_was_not_is_not(
    answer: Answer, mode: DeliveryMode, attempts: int, spent: int, *, probe: bool
) -> None:
    verdict = decide(
        answer, attempts=attempts, spent=spent, mode=mode, policy=POLICY, probe=probe, random=lambda: 0.5
    )
    assert verdict.attempts == attempts + (answer is not Answer.NOT_SENT)
    assert verdict.status in (EffectStatus.PENDING, EffectStatus.DELIVERED, EffectStatus.DEAD_LETTERED)
    assert (verdict.status is EffectStatus.DELIVERED) is (answer is Answer.ACCEPTED)
    if answer is Answer.NOT_SENT:
        assert verdict.spent == spent
    if mode is DeliveryMode.AT_MOST_ONCE and answer is Answer.UNCERTAIN:
        assert verdict.status is EffectStatus.DEAD_LETTERED


def test_a_failed_probe_sets_nothing_aside_however_long_the_outage() -> None:
    attempts = spent = 4
    for _ in range(1000):
        verdict = decide(
            Answer.NOT_TAKEN,
            attempts=attempts,
            spent=spent,
            mode=DeliveryMode.AT_LEAST_ONCE,
            policy=POLICY,
            probe=True,
            random=lambda: 0.5,
        )
        assert verdict.status is EffectStatus.PENDING
        attempts, spent = verdict.attempts, verdict.spent
    assert (attempts, spent) == (1004, 4)


@pytest.mark.parametrize(("asked", "delay"), [(None, 0.05), (0.01, 0.05), (30.0, 30.0), (1e9, 3600.0)])
def test_what_the_destination_asks_for_lengthens_the_pause_up_to_an_hour(
    asked: float | None, delay: float
) -> None:
    verdict = decide(
        Answer.NOT_TAKEN,
        attempts=0,
        spent=0,
        mode=DeliveryMode.AT_LEAST_ONCE,
        policy=POLICY,
        retry_after_s=asked,
        random=lambda: 0.5,
    )
    assert verdict.delay_s == delay
