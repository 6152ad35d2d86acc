"""How the free slots of runners are shared among the tenants whose turn it is.

Tenants stand in a ring in order of their last turn. Each takes as many runs as its weight, then the next; the
ring goes round until the slots or the runs are gone. Whoever was cut short by the end of the slots keeps its
turn and goes on with it (deficit round robin, Shreedhar and Varghese 1995, with one run as the unit), so the
weights hold also where runners take one run at a time. A tenant's wait depends on how many others have work,
never on how much.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """A tenant that has runs ready in a pool, and how many of this turn's runs it has `served` already."""

    pool: str
    tenant: str
    turn: int
    ready: int
    weight: int
    served: int = 0

    @property
    def used(self) -> int:
        """What counts of `served`: nothing if the weight has sunk below it."""
        return self.served if self.served < self.weight else 0

    def after(self, runs: int) -> tuple[int, bool]:
        """Return how much of its turn is served after so many runs, and whether it has a new one."""
        used = self.used + runs
        return used % self.weight, used >= self.weight


Part = tuple[str, str]
"""What several of a tenant's pools may have a room in common by."""
_NONE: Mapping[Part, Part] = {}
_NOWHERE: Mapping[Part, int] = {}


def share(
    slots: int,
    turns: Sequence[Turn],
    room: Mapping[str, int],
    within: Mapping[Part, Part] = _NONE,
    room_within: Mapping[Part, int] = _NOWHERE,
) -> dict[Turn, int]:
    """Return how many runs each takes, in the order in which they stand in the ring from then on.

    `room` is what each tenant may still have in flight, over all its pools; a pool and tenant of `within` may
    also have no more than there is in `room_within`. Who takes none is left out.
    """
    ring = deque(sorted(turns, key=lambda t: t.turn))
    left_of = dict(room)
    left_within = dict(room_within)
    taken: dict[Turn, int] = {}
    while slots > 0 and ring:
        turn = ring.popleft()
        before = taken.get(turn, 0)
        due = turn.weight - turn.after(before)[0]
        part = within.get((turn.pool, turn.tenant))
        quantum = min(due, turn.ready - before, left_of[turn.tenant], slots)
        if part is not None:
            quantum = min(quantum, left_within[part])
        if quantum <= 0:
            continue
        left_of[turn.tenant] -= quantum
        if part is not None:
            left_within[part] -= quantum
        slots -= quantum
        if quantum == due:
            taken.pop(turn, None)
            ring.append(turn)
        taken[turn] = before + quantum
    return taken
