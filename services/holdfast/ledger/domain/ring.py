"""How the free slots of runners are shared among the tenants whose turn it is.

Tenants stand in a ring in order of their last turn. Each takes as many runs as its weight, then the next; the
ring goes round until the slots or the runs are gone. A tenant's wait depends on how many others have work,
never on how much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """A tenant that has runs ready in a pool."""

    pool: str
    tenant: str
    turn: int
    ready: int
    weight: int


def share(slots: int, turns: Sequence[Turn], room: Mapping[str, int]) -> dict[Turn, int]:
    """Return how many runs each takes, in order of turn; those that take none are left out.

    `room` is what each tenant may still have in flight, over all its pools.
    """
    ring = sorted(turns, key=lambda t: t.turn)
    left_in = {turn: turn.ready for turn in ring}
    left_of = dict(room)
    taken: dict[Turn, int] = {}
    while slots > 0 and ring:
        still: list[Turn] = []
        for turn in ring:
            quantum = min(turn.weight, left_in[turn], left_of[turn.tenant], slots)
            if quantum <= 0:
                continue
            taken[turn] = taken.get(turn, 0) + quantum
            left_in[turn] -= quantum
            left_of[turn.tenant] -= quantum
            slots -= quantum
            still.append(turn)
        ring = still
    return taken
