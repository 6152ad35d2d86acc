"""What tokens cost, and how many of them cost so much."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.invoker.batch_message import cost_micros, tokens_costing

PRICES = st.sampled_from([0.001, 0.15, 0.5, 1.0, 2.5, 3.0, 15.0, 75.0]) | st.floats(0.001, 1000)


@given(PRICES, st.integers(0, 10**9))
def test_so_many_tokens_cost_as_much_and_one_less_does_not(price: float, micros: int) -> None:
    tokens = tokens_costing(micros, price)
    assert cost_micros(tokens, price) >= micros
    assert tokens == 0 or cost_micros(tokens - 1, price) < micros
