"""Admission: what was acknowledged is never lost, and a key never makes two runs.

Of a group of invocations each is admitted, found again, or refused by itself. Everything about a tenant's
queue is read under the lock of its row, so the decision (`domain.admission`) is made in Python on facts that
cannot move, and written in one statement. The most frequent group, new runs for idle runners about which
there is nothing to decide, takes the quick way of `admission_placed`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from holdfast.kit.db import Access, Connection
from holdfast.ledger import admission_sql as sql
from holdfast.ledger.admission_column import asked
from holdfast.ledger.admission_group import Answer, Entry, Facts, Group, Placements, Server, TenantDoor
from holdfast.ledger.admission_placed import place
from holdfast.ledger.domain.admission import Door, Room
from holdfast.ledger.domain.rate import Pace
from holdfast.ledger.handoff import allow
from holdfast.ledger.values import Invocation, limits_of

__all__ = ["Answer", "Placements", "Server", "admit", "admit_within", "lock_queues"]


async def admit(
    db: Access, invocations: Sequence[Invocation], placements: Placements | None = None
) -> list[Answer]:
    """Admit a group in one transaction and answer each, in order.

    Repeatable: what a lost answer had admitted is found again by its key, `created` False. A crash admits all
    or none. Locks the tenants' queues. Never raises for one invocation: its answer is `Refused` with the
    fault (IDEMPOTENCY_KEY_REUSED, RUN_ID_TAKEN, QUEUE_FULL, RATE_LIMITED).
    """
    chosen = placements or Placements()
    placed = await db.retrying(lambda: place(db, invocations, chosen))
    if placed is not None:
        return placed

    async def once() -> list[Answer]:
        async with db.transaction() as connection:
            return await admit_within(connection, invocations, chosen)

    try:
        return await db.retrying(once)
    except asyncpg.UniqueViolationError:
        # Two tenants chose one run id at the same moment; whoever looks now sees the other's.
        return await db.retrying(once)


async def admit_within(
    connection: Connection,
    invocations: Sequence[Invocation],
    placements: Placements,
    *,
    tenants: Sequence[Any] | None = None,
) -> list[Answer]:
    """Admit a group as part of the caller's transaction.

    The transaction must not have locked anything yet, or only the tenants: `tenants` are then what
    `lock_queues` returned.
    """
    group = Group(invocations, placements)
    if tenants is None:
        tenants = await lock_queues(connection, {i.tenant for i in invocations})
    firsts = group.firsts()
    facts = await _look(connection, firsts, placements)
    doors = {row["tenant"]: _door(row, facts.now) for row in tenants}
    group.decide(firsts, facts, doors)
    if group.entries:
        await _write(connection, group, facts, doors)
    if group.found:
        found = {
            row["run_id"]: row for row in await connection.fetch(sql.FOUND, list(set(group.found.values())))
        }
        if len(found) < len(set(group.found.values())):
            # Its retention was over at this moment: whoever looks again finds neither the run nor its key.
            raise asyncpg.SerializationError("A run that a key stood for has been removed meanwhile.")
        group.answer_found(found)
    return group.answers()


async def lock_queues(connection: Connection, tenants: set[str]) -> list[Any]:
    """Lock the tenants' queues as `release.lock_tenants` does; return what admission reads of them."""
    rows = await connection.fetch(sql.LOCK_TENANTS, list(tenants))
    if len(rows) < len(tenants):
        # Seen for the first time. The insert may wait for, and lock, names out of order beside those
        # locked above; a deadlock of two first sights is repeated by the caller.
        await connection.execute(sql.ADD_TENANTS, list(tenants - {row["tenant"] for row in rows}))
        rows = await connection.fetch(sql.LOCK_TENANTS, list(tenants))
    return list(rows)


def _door(row: Mapping[str, Any], now: datetime) -> TenantDoor:
    room = Room(row["in_flight"], row["max_in_flight"], row["queued"], row["max_queued"])
    elapsed = (now - row["spent_time"]).total_seconds()
    pace = Pace(row["rate"], row["burst_room"], row["spent"], elapsed)
    caps = frozenset(json.loads(row["intent_caps"])) if row["intent_caps"] is not None else frozenset[str]()
    return TenantDoor(Door(room), pace, limits_of(row), caps, row["by_user"])


async def _look(connection: Connection, firsts: Sequence[Invocation], placements: Placements) -> Facts:
    facts = Facts()
    rows = await connection.fetch(
        sql.LOOK,
        [i.tenant for i in firsts],
        [i.idempotency_key for i in firsts],
        [i.run_id for i in firsts],
        [i.lane for i in firsts],
        list(placements.credit),
        list(placements.servers),
    )
    for row in rows:
        match row["kind"]:
            case sql.KNOWN:
                facts.known[row["place"] - 1] = (row["id"], row["fingerprint"])
            case sql.TAKEN:
                facts.taken.add(row["place"] - 1)
            case sql.HELD:
                facts.held.add(row["place"] - 1)
            case sql.BUSY:
                facts.busy.add(row["pool"])
            case sql.ALIVE:
                facts.alive.add(row["id"])
            case _:
                facts.seqs.append(row["seq"])
                facts.now = row["now"]
    facts.seqs.sort()
    return facts


async def _write(connection: Connection, group: Group, facts: Facts, doors: Mapping[str, TenantDoor]) -> None:
    columns = [list(column) for column in zip(*map(_values, group.entries), strict=True)]
    moved = {name: d.door for name, d in doors.items()}
    pools = list(group.readied)
    await connection.execute(
        sql.INSERT,
        facts.now,
        *columns,
        list(moved),
        [door.in_flight for door in moved.values()],
        [door.queued for door in moved.values()],
        [pool for pool, _ in pools],
        [tenant for _, tenant in pools],
        [group.readied[key] for key in pools],
        [moved[tenant].capped for _, tenant in pools],
        [door.pace.spent for door in doors.values()],
    )
    await allow(connection, [entry.invocation for entry in group.entries])
    newly = _newly_capped(moved.items())
    if newly:
        await connection.execute(sql.CAP, newly)


def _newly_capped(doors: Iterable[tuple[str, Door]]) -> list[str]:
    return [name for name, door in doors if door.capped and door.room.in_flight < door.room.max_in_flight]


def _values(entry: Entry) -> tuple[object, ...]:
    """Return a new run's values, in the order of `sql.INSERT`."""
    return (
        *asked(entry.invocation, entry.pool, entry.agent_version, entry.runner_session, entry.limits),
        entry.seq,
        int(entry.where),
        entry.not_before,
        entry.deadline,
    )
