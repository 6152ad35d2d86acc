"""What an Invoker does for a batch, one step after the other: start a chunk of items, pause, finish, clear.

A chunk is admitted and its items moved in one transaction, so an item has a run or waits, never both; the end
of the run moves it on in the transaction that ends the run. Wherever everything stops, it goes on from there.

What costs time without needing the tenant's lock, payloads and envelopes, is made before it is taken; what
was prepared and is no longer due then is left.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import QueueFull, RateLimited
from holdfast.ledger import batch
from holdfast.ledger import batch_sql as sql
from holdfast.ledger.admission import Placements, admit_within, lock_queues
from holdfast.ledger.domain.batch import (
    CHUNK,
    Admit,
    BatchStatus,
    Clear,
    Finish,
    ItemStatus,
    Pause,
    Rest,
    Standing,
    Tolerance,
    light_chunk,
    light_intent,
    next_step,
)
from holdfast.ledger.domain.budget import Limits
from holdfast.ledger.values import Admitted, Failure, Invocation, Leased, Refused, limits_of


@dataclass(frozen=True, slots=True)
class Due:
    """An item that is to be started, for the `attempt`th time; if light perhaps `alone`."""

    index: int
    attempt: int
    payload: bytes
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Items of one batch that are to be started, and what their runs are made of.

    `light` are the versions of code whose runners execute many items with one run;
    `defaults` are the tenant's limits.
    """

    tenant: str
    batch_id: UUID
    spec: bytes
    priority: int
    max_parallelism: int
    defaults: Limits
    light: frozenset[str]
    items: Sequence[Due]


@dataclass(frozen=True, slots=True)
class Active:
    """A batch for which something may be to be done."""

    batch_id: UUID
    tenant: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The envelope of a run with the item that it executes, or the light ones."""

    items: Sequence[Due]
    invocation: Invocation
    light: bool = False


@dataclass(slots=True)
class Advanced:
    """What was done: items moved, runs leased at once, pools in which others wait.

    `again` says that more can be done now, `wait_s` in how many seconds an item is due again if nothing else
    comes before, `rests` that the batch needs nobody any more; `in_flight` counts its runs.
    """

    items: int = 0
    leases: list[Leased] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    in_flight: int = 0
    again: bool = False
    wait_s: float | None = None
    rests: bool = False


Compose = Callable[[Work], list[Prepared]]
"""Makes the envelopes of items' runs."""

Reserve = Callable[[Sequence[Invocation]], Placements]
"""Says which runners could take these runs at once."""


async def active(connection: Connection, *, after: UUID, limit: int = 100) -> list[Active]:
    """Read batches for which something may be to be done, by id."""
    rows = await connection.fetch(sql.ACTIVE, after, limit)
    return [Active(row["batch_id"], row["tenant"]) for row in rows]


async def advance(db: Database, which: Active, compose: Compose, reserve: Reserve) -> Advanced:
    """Do the next step for a batch.

    Repeatable, by any number of Invokers at once: each step is decided under the tenant's lock. A crash does
    all of it or nothing.
    """
    prepared = await _prepared(db, which, compose)
    indexes = [item.index for each in prepared or () for item in each.items]

    async def once() -> Advanced:
        async with db.transaction() as connection:
            tenants = await lock_queues(connection, {which.tenant})
            row = await connection.fetchrow(sql.LOCK, which.batch_id, which.tenant, indexes)
            return await _step(connection, row, _Ready(prepared, tenants, reserve))

    return await db.retrying(once)


@dataclass(frozen=True, slots=True)
class _Ready:
    """What is at hand to start items: their envelopes, the tenant's locked row, the runners.

    Nothing was prepared (None) while there was nothing to start.
    """

    prepared: Sequence[Prepared] | None
    tenants: Sequence[Any]
    reserve: Reserve


async def _prepared(db: Database, which: Active, compose: Compose) -> list[Prepared] | None:
    """Read, without a lock, what would be started now, and make its envelopes."""
    async with db.connection() as connection:
        row = await connection.fetchrow(sql.LOOK, which.batch_id, which.tenant)
        match next_step(_standing(row)):
            case Admit(room):
                found = await _due(connection, row, room)
            case _:
                return None
        indexes = [item["index"] for item in found]
        payloads = dict(await connection.fetch(sql.PAYLOADS, which.batch_id, indexes)) if found else {}
        served = await connection.fetchrow(
            sql.SERVED, which.tenant, row["intent"], light_intent(row["intent"])
        )
    items = [
        Due(each["index"], each["attempts"] + 1, payloads[each["index"]], each["alone"]) for each in found
    ]
    work = Work(
        tenant=row["tenant"],
        batch_id=row["batch_id"],
        spec=row["spec"],
        priority=row["priority"],
        max_parallelism=row["max_parallelism"],
        defaults=Limits() if served is None else limits_of(served),
        light=frozenset() if served is None else frozenset(served["light"]),
        items=items,
    )
    return compose(work) if items else []


async def _due(connection: Connection, row: Any, most: int) -> Sequence[Any]:
    found: Sequence[Any] = await connection.fetch(
        sql.FIRST if row["in_order"] else sql.DUE, row["batch_id"], most
    )
    return found


async def _step(connection: Connection, row: Any, ready: _Ready) -> Advanced:
    standing = _standing(row)
    match next_step(standing):
        case Admit(items):
            done = await _admit(connection, row, items, ready)
            done.in_flight += _runs(row, standing)
            return done
        case Pause(reason):
            await batch.move(connection, row, BatchStatus.PAUSED, reason=reason)
        case Finish(status):
            await batch.move(connection, row, status)
        case Clear():
            return Advanced(
                await connection.fetchval(sql.CLEAR, row["batch_id"], sql.CLEARED_AT_ONCE), again=True
            )
        case Rest(done=False):
            return Advanced(in_flight=_runs(row, standing))
        case Rest():
            pass
    await connection.execute(sql.LEAVE, row["batch_id"])
    return Advanced(rests=True)


def _runs(row: Any, standing: Standing) -> int:
    """Return by how many runs the items in flight are executed, as full chunks if they are light."""
    each = light_chunk(standing.max_parallelism) if row["light"] else 1
    return ceil(standing.count(ItemStatus.RUNNING) / each)


def _standing(row: Any) -> Standing:
    return Standing(
        status=BatchStatus(row["status"]),
        counts={ItemStatus(int(status)): n for status, n in json.loads(row["counts"] or "{}").items()},
        max_parallelism=row["max_parallelism"],
        in_order=row["in_order"],
        skip_staging=row["skip_staging"],
        tolerance=Tolerance(row["tolerated_items"], row["tolerated_share"]),
        forgiven_skipped=row["forgiven_skipped"],
        forgiven_ended=row["forgiven_ended"],
    )


async def _admit(connection: Connection, row: Any, items: int, ready: _Ready) -> Advanced:
    assert items <= CHUNK
    if ready.prepared is None:
        return Advanced(again=True)  # there has been no room before
    if not ready.prepared:
        return Advanced(wait_s=await connection.fetchval(sql.LATER, row["batch_id"]))
    going = _still_due(ready.prepared, json.loads(row["waiting"] or "{}"), items)
    if not going:
        return Advanced(again=True)  # others have started what was prepared
    invocations = [each.invocation for each in going]
    answers = await admit_within(connection, invocations, ready.reserve(invocations), tenants=ready.tenants)
    done = Advanced(again=sum(len(each.items) for each in going) == CHUNK)
    started: list[tuple[int, UUID, bool]] = []
    skipped: list[tuple[int, str]] = []
    pools: dict[str, None] = {}
    for each, answer in zip(going, answers, strict=True):
        if isinstance(answer, Admitted) and answer.created:
            started += [(item.index, answer.run_id, each.light) for item in each.items]
            if answer.lease is None:
                pools[answer.pool] = None
            else:
                done.leases.append(answer.lease)
        elif isinstance(answer, Refused) and isinstance(answer.fault, QueueFull | RateLimited):
            done.again = False  # it waits here instead of there
        else:
            failure = Failure("IDEMPOTENCY_KEY_REUSED", "A run of someone else's has the item's key.")
            skipped += [(item.index, failure.to_json()) for item in each.items]
    if started:
        await connection.execute(sql.STARTED, row["batch_id"], *map(list, zip(*started, strict=True)))
    if skipped:
        await connection.execute(sql.SKIPPED, row["batch_id"], *map(list, zip(*skipped, strict=True)))
    done.items, done.pools = len(started) + len(skipped), list(pools)
    done.in_flight = len({run_id for _, run_id, _ in started})
    return done


def _still_due(prepared: Sequence[Prepared], waiting: Mapping[str, int], room: int) -> list[Prepared]:
    """Return what was prepared and waits as it did, as far as there is room."""
    going: list[Prepared] = []
    for each in prepared:
        if len(each.items) > room:
            break
        if all(waiting.get(str(item.index)) == item.attempt - 1 for item in each.items):
            going.append(each)
            room -= len(each.items)
    return going
