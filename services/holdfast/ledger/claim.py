"""Claiming: runners take work tenant by tenant, at a cost that does not depend on how much waits.

    whose turn (index, no lock) ─▶ lock those tenants ─▶ look again ─▶ share (`domain.ring`) ─▶ take
        ▲──────────(room is left, and pools were held back or tenants locked by others)─────────────┘

Locks tenants (`claim_free` without waiting: others may be taking from them, or putting hundreds of runs in),
then the sessions, then rows of the queue that the tenants' locks protect.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger import claim_sql as sql
from holdfast.ledger import held, throttle_sift
from holdfast.ledger.domain.budget import Usage
from holdfast.ledger.domain.ring import Turn, share
from holdfast.ledger.values import Failure, Leased, ServedIntent, limits_of, pool_of

_ROUNDS: Final = 16
_PASSED: Final = 128
"""How many tenants are looked at after a round that held back or passed by some: they take nobody's turn."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A runner session that can take `slots` runs of the intents it serves."""

    session_id: UUID
    intents: tuple[ServedIntent, ...]
    slots: int


Seats = Callable[[], Mapping[UUID, int]]
"""Says how many runs each session can take now."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What was leased, and the demands in whose turn tenants that others have locked were passed by."""

    leased: Sequence[Leased]
    passed_by: Sequence[Sequence[Demand]]


@dataclass(frozen=True, slots=True)
class _Serving:
    """What a run of a pool becomes when these runners take it: their version, and its pool from then on."""

    agent_version: str
    next_pool: str
    critical: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a round of a claim has leased, and why another may lease more.

    Others had so many tenants `locked`, and there may be more `behind` them; or there may be tenants behind
    those whose pools it has come to hold back (`held`), or runs of others behind what it has `sifted` out,
    for their users are at their caps.
    """

    leased: Sequence[Leased] = ()
    locked: int = 0
    behind: bool = False
    held: bool = False
    sifted: bool = False


async def claim(db: Database, demands: Sequence[Demand]) -> list[Leased]:
    """Lease runs to the sessions, at most their slots each; sessions that have ended get none.

    It is `claim_free`, and `claim_locked` for what that has passed by: one transaction, one more if others
    claim too, and more while it meets pools or runs that something has come to hold back since they were last
    looked at.
    """
    claimed = await claim_free(db, demands)
    leased = list(claimed.leased)
    took = Counter(run.session_id for run in leased)
    for alike in claimed.passed_by:
        left = {each.session_id: each.slots - took[each.session_id] for each in alike}
        if most := sum(left.values()):
            leased += await claim_locked(db, alike[0].intents, partial(dict, left), most)
    return leased


async def claim_free(db: Database, demands: Sequence[Demand]) -> Claimed:
    """Lease what can be had without waiting for anybody; sessions that serve alike are served together.

    A crash before the answer leaves leases that their sessions do not know of: they are found when the
    session opens again or by `session.held`, or freed by the sweep. That nothing was leased and nobody passed
    by means that nothing could be taken now.
    """
    alike: dict[tuple[ServedIntent, ...], list[Demand]] = {}
    for demand in demands:
        if demand.slots > 0:
            alike.setdefault(demand.intents, []).append(demand)
    leased: list[Leased] = []
    passed_by: list[Sequence[Demand]] = []
    for intents, wanting in alike.items():
        seats = {demand.session_id: demand.slots for demand in wanting}
        most = sum(seats.values())
        found, locked = await _claim_alike(db, intents, sql.LOCK_FREE, partial(dict, seats), most=most)
        leased += found
        if locked:
            passed_by.append(wanting)
    return Claimed(leased, passed_by)


async def claim_locked(
    db: Database, intents: tuple[ServedIntent, ...], seats: Seats, most: int
) -> list[Leased]:
    """Lease runs of the `most` tenants whose turn it is; wait until those that others have locked are free.

    `seats` is asked once they are: what has come free meanwhile can be used, and others use it until then. It
    is asked again, and answers the same, where the transaction is repeated.
    """
    return (await _claim_alike(db, intents, sql.LOCK_WAITING, seats, most=most))[0]


async def _claim_alike(
    db: Database, intents: tuple[ServedIntent, ...], lock: str, seats: Seats, *, most: int
) -> tuple[list[Leased], bool]:
    """Return what was leased, and whether tenants that others have locked were passed by."""
    serving = {
        pool: _Serving(
            served.agent_version,
            pool_of(served.intent, served.agent_version),
            served.critical if pool == served.intent else (),  # what has started goes on
        )
        for served in intents
        for pool in served.pools
    }
    leased: list[Leased] = []

    def left() -> dict[UUID, int]:
        took = Counter(run.session_id for run in leased)
        return {session: n - took[session] for session, n in seats().items() if n > took[session]}

    async def once() -> _Taken:
        async with db.transaction() as connection:
            return await _take(connection, lock, most, serving, left)

    taken = _Taken()
    for _ in range(_ROUNDS):
        taken = await db.retrying(once)
        leased += taken.leased
        again = taken.sifted
        if taken.behind and (taken.held or taken.locked):
            wider = _PASSED if taken.held else min(_PASSED, most + taken.locked)
            again = again or taken.held or wider > most
            most = max(most, wider)
        if not again or not left():
            break
    return leased, taken.locked > 0


async def _take(
    connection: Connection, lock: str, most: int, serving: Mapping[str, _Serving], seats_left: Seats
) -> _Taken:
    """Take what the sessions have room for, of the tenants that can be locked, `most` of them."""
    pools = list(serving)
    candidates = await connection.fetch(lock, pools, most)
    tenants = [row["tenant"] for row in candidates if row["locked"]]
    locked, behind = len(candidates) - len(tenants), len(candidates) == most
    left = seats_left() if tenants else {}
    if not left:
        return _Taken(locked=locked, behind=behind)
    found = await connection.fetch(sql.TURNS, tenants, pools, list(left))
    alive = {row["session_id"] for row in found if row["session_id"] is not None}
    seats = _seats({session: n for session, n in left.items() if session in alive})
    rows = [row for row in found if row["session_id"] is None]
    room = {row["tenant"]: row["room"] for row in rows}
    turns = [Turn(r["pool"], r["tenant"], r["turn"], r["ready"], r["weight"], r["served"]) for r in rows]
    found = await held.limits(connection, rows, {pool: each.critical for pool, each in serving.items()})
    shares = share(len(seats), turns, room, found.within, found.room)
    shares, sifted = await throttle_sift.sift(connection, shares, found.by_user)
    leased = await _take_shares(connection, shares, serving, seats, found) if shares else []
    holds = await held.hold(connection, found, shares)
    full = _at_cap(room, leased)
    if full:
        await connection.execute(sql.CAP, full)
    return _Taken(leased, locked=locked, behind=behind, held=holds, sifted=sifted)


async def _take_shares(
    connection: Connection,
    shares: Mapping[Turn, int],
    serving: Mapping[str, _Serving],
    seats: Sequence[UUID],
    found: held.Limits,
) -> list[Leased]:
    after = [turn.after(runs) for turn, runs in shares.items()]
    rows = await connection.fetch(
        sql.TAKE,
        [turn.pool for turn in shares],
        [turn.tenant for turn in shares],
        list(shares.values()),
        [serving[turn.pool].next_pool for turn in shares],
        [serving[turn.pool].agent_version for turn in shares],
        seats,
        [served for served, _ in after],
        [has_new for _, has_new in after],
        [found.mark(turn) for turn in shares],
        [turn.tenant in found.by_user for turn in shares],
    )
    if len(rows) < sum(shares.values()):
        await _set_right(connection, shares, rows)
    return [leased(row) for row in rows]


async def _set_right(connection: Connection, shares: Mapping[Turn, int], rows: Sequence[Any]) -> None:
    """Correct counts that promised more runs than there were: no claim shall come for them again."""
    took = Counter((row["taken_from"], row["tenant"]) for row in rows)
    short = [turn for turn, wanted in shares.items() if took[turn.pool, turn.tenant] < wanted]
    await connection.execute(sql.EMPTY, [turn.pool for turn in short], [turn.tenant for turn in short])


def _seats(left: Mapping[UUID, int]) -> list[UUID]:
    """Deal the sessions out in rounds, so that a few runs spread over many runners."""
    seats: list[UUID] = []
    remaining = dict(left)
    while remaining:
        seats += remaining
        remaining = {session: n - 1 for session, n in remaining.items() if n > 1}
    return seats


def _at_cap(room: Mapping[str, int], taken: Sequence[Leased]) -> list[str]:
    took = Counter(run.tenant for run in taken)
    return [tenant for tenant, n in room.items() if took[tenant] >= n]


def leased(row: Mapping[str, Any]) -> Leased:
    """Read a row of a lease with its run."""
    return Leased(
        run_id=row["run_id"],
        session_id=row["session_id"],
        epoch=row["epoch"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        tenant=row["tenant"],
        intent=row["intent"],
        envelope=row["envelope"],
        limits=limits_of(row),
        create_time=row["create_time"],
        lease_time=row["deadline_time"] - timedelta(seconds=row["remaining_s"]),
        remaining_s=row["remaining_s"],
        last_commit=row["last_commit"],
        last_sequence=row["last_sequence"],
        usage=Usage(row["steps"], row["tools"], row["tokens"], row["context"]),
        cancel_requested=row["cancel_requested"],
        mail_last=row["mail_last"],
        lent=Usage(row["lent_steps"], row["lent_tools"], row["lent_tokens"]),
        undoing=Failure.from_json(row["undoing"]),
        waits=row["waits"],
        shape=row["shape"],
    )
