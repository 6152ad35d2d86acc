"""Slots are shared tenant by tenant, in proportion to weights, never beyond anyone's room."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.ring import Turn, share

_turns = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["t1", "t2", "t3", "t4"]),
        st.integers(0, 50),
        st.integers(1, 5),
    ),
    unique_by=lambda t: t[:2],
    max_size=8,
).map(lambda rows: [Turn(pool, tenant, n, ready, w) for n, (pool, tenant, ready, w) in enumerate(rows)])
_room = st.fixed_dictionaries({f"t{n}": st.integers(0, 60) for n in range(1, 5)})


@given(st.integers(0, 100), _turns, _room)
def test_no_slot_stays_free_while_someone_may_take_it(
    slots: int, turns: list[Turn], room: dict[str, int]
) -> None:
    taken = share(slots, turns, room)
    for turn in turns:
        assert taken.get(turn, 0) <= turn.ready
    by_tenant = {t: sum(n for turn, n in taken.items() if turn.tenant == t) for t in room}
    assert all(by_tenant[t] <= room[t] for t in room)
    possible = sum(min(room[t], sum(turn.ready for turn in turns if turn.tenant == t)) for t in room)
    assert sum(taken.values()) == min(slots, possible)


def test_a_long_backlog_does_not_delay_a_short_one() -> None:
    loud = Turn("p", "loud", turn=1, ready=100_000, weight=1)
    quiet = Turn("p", "quiet", turn=2, ready=1, weight=1)
    assert share(2, [loud, quiet], {"loud": 1000, "quiet": 1000}) == {loud: 1, quiet: 1}


def test_twice_the_weight_gets_twice_the_runs() -> None:
    heavy = Turn("p", "heavy", turn=1, ready=1000, weight=2)
    light = Turn("p", "light", turn=2, ready=1000, weight=1)
    assert share(30, [heavy, light], {"heavy": 1000, "light": 1000}) == {heavy: 20, light: 10}


def test_whose_turn_is_oldest_is_served_first() -> None:
    turns = [Turn("p", f"t{n}", turn=n, ready=5, weight=1) for n in (3, 1, 2)]
    assert [turn.tenant for turn in share(2, turns, {"t1": 9, "t2": 9, "t3": 9})] == ["t1", "t2"]


def test_a_tenants_room_counts_over_all_its_pools() -> None:
    first, second = Turn("a", "t", 1, 5, 1), Turn("b", "t", 2, 5, 1)
    assert sum(share(10, [first, second], {"t": 3}).values()) == 3


@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=6),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_weights_hold_however_few_slots_there_are_at_a_time(weights: list[int], slots: list[int]) -> None:
    """Over many claims nobody is ever further from its part than one turn of everyone."""
    ring = [Turn("p", f"t{n}", n, 10_000, weight) for n, weight in enumerate(weights)]
    room = {turn.tenant: 10_000 for turn in ring}
    took = dict.fromkeys(room, 0)
    place = len(ring)
    for claim in range(60):
        for turn, runs in share(slots[claim % len(slots)], ring, room).items():
            took[turn.tenant] += runs
            served, has_new = turn.after(runs)
            place += 1
            moved = replace(turn, served=served, turn=place if has_new else turn.turn)
            ring = [moved if other is turn else other for other in ring]
        rounds = [took[turn.tenant] / turn.weight for turn in ring]
        assert max(rounds) - min(rounds) <= 1


def test_a_weight_that_sinks_below_what_was_served_begins_a_new_turn() -> None:
    turn = Turn("p", "t", 1, ready=9, weight=2, served=5)
    assert share(9, [turn], {"t": 9}) == {turn: 9}
    assert turn.after(1) == (1, False)
