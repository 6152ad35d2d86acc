"""Events of one order go one after another; those of others go with them, and nobody overtakes."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client import Invocation
from holdfast.edge.fault import NotNow
from holdfast.edge.intake import Broken, Fate, Letter, Taken
from holdfast.edge.order import take_in_order


def letters(orders: str) -> list[Letter]:
    """Return an event for each character; a blank has no order."""
    return [
        Letter(Invocation("i", idempotency_key=str(n), ordering_key=order.strip()))
        for n, order in enumerate(orders)
    ]


class Invoker:
    """Takes events, but for some that it has no room for, and some at which it fails."""

    def __init__(self, full: Sequence[int] = (), broken: Sequence[int] = ()) -> None:
        self.calls: list[list[int]] = []
        self._full = full
        self._broken = broken

    async def take(self, given: Sequence[Letter]) -> list[Fate]:
        numbers = [int(one.invocation.idempotency_key) for one in given]
        self.calls.append(numbers)
        return [self._fate(number) for number in numbers]

    def _fate(self, number: int) -> Fate:
        if number in self._full:
            return NotNow("full", after=3.0, pressed=True)
        return Broken("broken", after=2.0) if number in self._broken else Taken(str(number))


async def test_of_each_order_one_goes_at_a_time_and_all_that_have_none_go_at_once() -> None:
    invoker = Invoker()
    fates = await take_in_order(letters("aab a c"), invoker.take, lambda: False)
    assert invoker.calls == [[0, 2, 3, 5, 6], [1], [4]]
    assert [fate.run_id for fate in fates if isinstance(fate, Taken)] == [str(n) for n in range(7)]


async def test_after_one_that_there_is_no_room_for_nothing_more_is_sent() -> None:
    invoker = Invoker(full=[0])
    fates = await take_in_order(letters("abab"), invoker.take, lambda: False)
    assert invoker.calls == [[0, 1]]
    assert [isinstance(fate, NotNow) and fate.after for fate in fates] == [3.0, False, 3.0, 3.0]


async def test_one_at_which_the_invoker_fails_holds_its_order_alone_and_none_of_it_is_to_blame() -> None:
    invoker = Invoker(broken=[0])
    fates = await take_in_order(letters("abab  "), invoker.take, lambda: False)
    assert invoker.calls == [[0, 1, 4, 5], [3]]
    assert [type(fate) for fate in fates] == [Broken, Taken, NotNow, Taken, Taken, Taken]


async def test_once_it_is_over_no_more_is_sent() -> None:
    invoker = Invoker()
    fates = await take_in_order(letters("aa"), invoker.take, lambda: bool(invoker.calls))
    assert invoker.calls == [[0]]
    assert [type(fate) for fate in fates] == [Taken, NotNow]


@pytest.mark.timeout(60)
@given(st.text("abc ", max_size=12), st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
async def test_none_is_taken_after_one_of_its_order_that_was_not(
    orders: str, full: set[int], broken: set[int]
) -> None:
    invoker = Invoker(sorted(full), sorted(broken))
    fates = await take_in_order(letters(orders), invoker.take, lambda: False)
    for order in "abc":
        taken = [isinstance(fate, Taken) for fate, one in zip(fates, orders, strict=True) if one == order]
        assert taken == sorted(taken, reverse=True)
    sent = [number for call in invoker.calls for number in call]
    assert len(sent) == len(set(sent))
