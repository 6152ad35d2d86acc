"""A budget is never spent beyond its limit by more than the one call that was in flight."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.budget import Dimension, Limits, Usage, exceeded, leaves_room

LIMITS = Limits(deadline_ms=1000, max_steps=5, max_tools=3, max_tokens=100, max_context=50)
_charges = st.builds(
    Usage,
    steps=st.integers(0, 2),
    tools=st.integers(0, 2),
    tokens=st.integers(0, 60),
    context=st.integers(0, 70),
)


def test_missing_limits_take_the_defaults() -> None:
    assert Limits(max_steps=7).over(LIMITS) == Limits(1000, 7, 3, 100, 50)


@pytest.mark.parametrize(
    ("spent", "charge", "dimension"),
    [
        (Usage(steps=4), Usage(steps=1), Dimension.NONE),
        (Usage(steps=5), Usage(steps=1), Dimension.STEPS),
        (Usage(tools=3), Usage(steps=1, tools=1), Dimension.TOOLS),
        (Usage(tokens=99), Usage(tokens=500), Dimension.NONE),
        (Usage(tokens=100), Usage(tokens=1), Dimension.TOKENS),
        (Usage(tokens=600), Usage(steps=1), Dimension.NONE),
        (Usage(), Usage(context=51), Dimension.CONTEXT),
    ],
)
def test_the_limit_that_a_charge_breaks_is_named(spent: Usage, charge: Usage, dimension: Dimension) -> None:
    assert exceeded(spent, charge, LIMITS) is dimension


@given(st.lists(_charges, max_size=60))
def test_no_sequence_of_charges_overspends(charges: list[Usage]) -> None:
    spent = Usage()
    largest_call = 0
    for charge in charges:
        if exceeded(spent, charge, LIMITS) is Dimension.NONE:
            spent = spent.plus(charge)
            largest_call = max(largest_call, charge.tokens)
    assert spent.steps <= LIMITS.max_steps
    assert spent.tools <= LIMITS.max_tools
    assert spent.context <= LIMITS.max_context
    assert spent.tokens < LIMITS.max_tokens + max(largest_call, 1)


def test_a_run_may_go_on_only_where_its_budget_was_lifted() -> None:
    spent = Usage(steps=5)
    assert not leaves_room(Dimension.STEPS, spent, LIMITS)
    assert leaves_room(Dimension.STEPS, spent, Limits(max_steps=6))
    assert leaves_room(Dimension.DEADLINE, spent, LIMITS)
    assert leaves_room(Dimension.NONE, spent, LIMITS)
