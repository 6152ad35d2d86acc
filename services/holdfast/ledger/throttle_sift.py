"""What a claim may take of its shares where users have caps: runs of those at their caps go out of its way.

Reads the front of each pool, in order: first as many runs as its share, and if users at their caps leave it
short, once more, up to `MOST` over all pools. What cannot be taken is throttled, so that what may be is in
front, and no claim meets it again.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.kit.db import Connection
from holdfast.ledger import throttle_sql as sql
from holdfast.ledger.domain.ring import Turn
from holdfast.ledger.throttle import MOST, UNASKED_S, User

_FIRST: Final = (-(2**15), 0)


@dataclass(slots=True)
class _Front:
    """The pools' first runs, as they are looked through: what may be taken, and what goes out of the way."""

    wanted: Mapping[Turn, int]
    taken: Counter[Turn] = field(default_factory=Counter)
    moved: Counter[Turn] = field(default_factory=Counter)
    away: list[Any] = field(default_factory=list)
    after: dict[Turn, tuple[int, int]] = field(default_factory=dict)
    at_end: set[Turn] = field(default_factory=set)
    room: dict[User, int | None] = field(default_factory=dict)

    async def look(self, connection: Connection, most: int) -> None:
        """Look through the next runs of each pool that has not given its share yet."""
        short = [t for t, wanted in self.wanted.items() if self.taken[t] < wanted and t not in self.at_end]
        if not short:
            return
        after = [self.after.get(turn, _FIRST) for turn in short]
        asked = [max(self.wanted[turn] - self.taken[turn], most // len(short)) for turn in short]
        rows = await connection.fetch(
            sql.FRONT,
            [turn.pool for turn in short],
            [turn.tenant for turn in short],
            [rank for rank, _ in after],
            [seq for _, seq in after],
            asked,
        )
        came = Counter(row["place"] for row in rows)
        self.at_end |= {turn for at, turn in enumerate(short) if came[at + 1] < asked[at]}
        unknown = {(row["tenant"], row["user_id"]) for row in rows if row["user_id"]} - self.room.keys()
        if unknown:
            found = await connection.fetch(sql.ROOM, *map(list, zip(*sorted(unknown), strict=True)))
            self.room |= {(row["tenant"], row["user_id"]): row["room"] for row in found}
        for row in rows:
            self._judge(short[row["place"] - 1], row)

    def _judge(self, turn: Turn, row: Any) -> None:
        if self.taken[turn] == self.wanted[turn]:
            return
        self.after[turn] = (row["rank"], row["seq"])
        user = (row["tenant"], row["user_id"])
        room = self.room.get(user)
        if room is not None and room <= 0:
            self.moved[turn] += 1
            self.away.append(row)
            return
        if room is not None:
            self.room[user] = room - 1
        self.taken[turn] += 1

    def share(self, turn: Turn) -> int:
        """Return what may be taken; more where the count promised more than there is: `TAKE` notices."""
        lost = turn in self.at_end and self.taken[turn] + self.moved[turn] < turn.ready
        return self.wanted[turn] if lost else self.taken[turn]


async def sift(
    connection: Connection, shares: Mapping[Turn, int], tenants: Collection[str]
) -> tuple[dict[Turn, int], bool]:
    """Return what may be taken of each share, and whether runs went out of the way; `tenants` have such caps.

    A share that is to be taken is in front of its pool then. One of which nothing may be taken is left out,
    and if runs went out of its way its turn is over, so that others come first. Under the tenants' locks.
    """
    front = _Front({turn: runs for turn, runs in shares.items() if turn.tenant in tenants})
    await front.look(connection, 0)
    if front.away:
        await front.look(connection, MOST)
        await _move(connection, front)
    cut = {turn: front.share(turn) if turn in front.wanted else runs for turn, runs in shares.items()}
    return {turn: runs for turn, runs in cut.items() if runs}, bool(front.away)


async def _move(connection: Connection, front: _Front) -> None:
    over = [turn for turn in front.moved if not front.taken[turn]]
    names = ("pool", "tenant", "rank", "seq", "run_id", "user_id")
    await connection.execute(
        sql.THROTTLE,
        *([row[name] for row in front.away] for name in names),
        [turn.pool for turn in over],
        [turn.tenant for turn in over],
        UNASKED_S,
    )
