"""Runs whose user is at his cap wait out of the claims' way, and come back as his leases end.

    ready ──(a claim meets it, its user is at his cap)──▶ throttled ──(a lease of his ends)──▶ ready

A user's slots are his leases, counted by an index. In each pool in which runs of his are throttled at least
as many of his are ready as he has room for: when he gets room, so many come back in each of these pools. So
claims take what they would take if none were throttled, and meet a run in vain once: again only if it came
back, and another pool's run took the room.

Everything happens under the tenant's lock. The caps are read then, so they change live; who has room after a
change is looked at step by step (`look_again`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger import throttle_sql as sql

User = tuple[str, str]
"""A tenant, and a user of its."""

UNASKED_S: Final = 30.0
"""How soon a user is looked at again though no lease of his has ended."""
MOST: Final = 2000
"""As many runs come back by a look, or one user's more, in each of his pools."""


async def free(connection: Connection, ended: Iterable[User]) -> list[str]:
    """Let a run come back, of each pool, for each lease of a user that has ended; return the pools with work.

    Users may be named more than once. No more come back than their users have room for. Inside the caller's
    transaction, which has locked the tenants and deleted the leases.
    """
    freed = Counter(ended)
    return await _free(connection, list(freed), list(freed.values()))


async def leave(connection: Connection, run_ids: Sequence[UUID]) -> list[str]:
    """Take runs out that left the queue without a lease; return the pools in which others came instead.

    They may have waited anywhere in it. Inside the caller's transaction, which has locked the tenants.
    """
    left = await connection.fetch(sql.LEAVE, list(run_ids))
    users = [(row["tenant"], row["user_id"]) for row in left]
    return await _free(connection, users, [row["runs"] for row in left]) if left else []


async def reason(connection: Connection, tenant: str, user: str) -> str:
    """Say why claims pass a user's runs over; empty if they do not."""
    return await connection.fetchval(sql.REASON, tenant, user) or ""


async def change(connection: Connection, tenant: str) -> list[str]:
    """Look at a tenant's users again, whose caps have changed; return the pools that got work.

    As many runs come back as fit into the caller's transaction, which has locked the tenant; `look_again`
    goes on.
    """
    await connection.execute(sql.ANEW, tenant)
    return await _look(connection, [tenant])


async def look_again(db: Database) -> tuple[int, list[str]]:
    """Let runs come back whose users have room after all; return how many users' time it was, and the pools.

    Repeatable. Locks the tenants.
    """

    async def once() -> tuple[int, list[str]]:
        async with db.transaction() as connection:
            due = await connection.fetch(sql.DUE)
            tenants = sorted({row["tenant"] for row in due})
            if not tenants:
                return 0, []
            await connection.fetch(sql.LOCK, tenants)
            return len(due), await _look(connection, tenants)

    return await db.retrying(once)


async def _look(connection: Connection, tenants: Sequence[str]) -> list[str]:
    back: dict[User, int] = {}
    later: list[User] = []
    done: list[User] = []
    for row in await connection.fetch(sql.LOOK, list(tenants)):
        user = (row["tenant"], row["user_id"])
        room: int | None = row["room"]
        if not row["waits"]:
            done.append(user)
        elif room is not None and room <= 0:
            later.append(user)
        elif sum(back.values()) < MOST:
            back[user] = min(MOST, MOST if room is None else room)
            if room is not None and room <= MOST:
                later.append(user)
    pools = await _free(connection, list(back), list(back.values())) if back else []
    if later:
        await connection.execute(sql.LATER, *_columns(later), UNASKED_S)
    if done:
        await connection.execute(sql.DONE, *_columns(done))
    return pools


async def _free(connection: Connection, users: Sequence[User], runs: Sequence[int]) -> list[str]:
    rows = await connection.fetch(sql.FREE, *_columns(users), list(runs))
    return sorted(row["pool"] for row in rows)


def _columns(users: Sequence[User]) -> list[list[Any]]:
    return [[tenant for tenant, _ in users], [user for _, user in users]]
