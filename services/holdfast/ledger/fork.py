"""Forking: a new run begins with the recorded steps of another, up to one of them, some outputs replaced.

What is recorded never changes, so it is read before anything is locked; the copy is then made by one
transaction, as an admission to the tenant's queue. Lock order: tenant, the source against being removed,
history against being dropped. The source may go on.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import IdempotencyKeyReused, QueueFull, RunNotForkable, RunNotFound
from holdfast.ledger.domain.admission import Door, Room, Where
from holdfast.ledger.domain.budget import Usage
from holdfast.ledger.history import PAGE_ROWS, StoredStep, page_of
from holdfast.ledger.release import Place, enqueue
from holdfast.ledger.run_view import COLUMNS, run_view
from holdfast.ledger.values import RunView

__all__ = ["Forked", "Source", "Wanted", "fork", "found", "source", "steps_until", "told_until", "view"]


@dataclass(frozen=True, slots=True)
class Source:
    """A run that another begins with, and the day of its history."""

    run_id: UUID
    tenant: str
    day: date


@dataclass(frozen=True, slots=True)
class Wanted:
    """The new run. `kept` are the positions copied, of which `edited` have another record.

    `emitted` is the JSON object of what counts as emitted already, None if nothing does.
    """

    run_id: UUID
    idempotency_key: str
    fingerprint: bytes
    kept: Sequence[int]
    edited: Mapping[int, bytes]
    usage: Usage
    emitted: str | None


@dataclass(frozen=True, slots=True)
class Forked:
    """The new run, or the one that an earlier call made; the pools that got work."""

    run_id: UUID
    created: bool
    pools: Sequence[str] = ()


_SOURCE: Final = """
SELECT run_id, tenant, day FROM run_state WHERE run_id = $1 AND tenant = $2
"""
_DROPPED: Final = "SELECT EXISTS (SELECT FROM history_dropped WHERE day = $1)"
# Held until the copy is committed, so that what it is made of is neither dropped nor removed meanwhile.
_KEEP_HISTORY: Final = "LOCK TABLE ONLY transcript IN ROW EXCLUSIVE MODE"
_KEEP_SOURCE: Final = "SELECT run_id FROM run_state WHERE run_id = $1 FOR KEY SHARE"

_TOLD: Final = """
SELECT first_sequence, events, emitted::text AS emitted FROM transcript
WHERE run_id = $1 AND day = $2 AND events IS NOT NULL AND first_sequence > $3
ORDER BY first_sequence LIMIT $4
"""

_LOCK: Final = """
SELECT in_flight, max_in_flight, queued, max_queued FROM tenant WHERE tenant = $1 FOR NO KEY UPDATE
"""
_KNOWN: Final = """
SELECT run_id, fingerprint FROM idempotency WHERE tenant = $1 AND idempotency_key = $2
"""

# Copies what this role may not read: see the function.
_BEGIN: Final = """
SELECT b.*, EXISTS (SELECT FROM lane l WHERE l.tenant = $11 AND l.ordering_key = b.lane) AS held
FROM begin_fork($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS b
"""

_VIEW: Final = f"""
SELECT {COLUMNS}
FROM run r JOIN run_state s ON s.run_id = r.run_id LEFT JOIN run_outcome o ON o.run_id = r.run_id
WHERE r.run_id = $1
"""  # noqa: S608 - a constant of ours

# $1 the source and $2 its day, $3 the new run and $4 its day, $5 the positions; of $6 the records are $7.
_COPY: Final = """
WITH moved AS (
    -- Where the source is in the background, the limits copied are those it has there, and no further move is
    -- allowed. One that moved only after its envelope's allowance was copied counts as not moved.
    UPDATE run_state SET handed_off = true
    WHERE run_id = $3 AND EXISTS (SELECT FROM run_state s WHERE s.run_id = $1 AND s.handed_off)
          AND NOT EXISTS (SELECT FROM handoff h WHERE h.run_id = $3)
)
INSERT INTO checkpoint (day, run_id, position, attempt, key, record, create_time)
SELECT $4, $3, c.position, c.attempt, c.key, coalesce(e.record, c.record), c.create_time
FROM checkpoint c LEFT JOIN unnest($6::int[], $7::bytea[]) AS e (position, record) ON e.position = c.position
WHERE c.run_id = $1 AND c.day = $2 AND c.position = ANY($5::int[])
"""

_TAKE_LANE: Final = "INSERT INTO lane (tenant, ordering_key, holder) VALUES ($1, $2, $3)"
_WAIT_BEHIND: Final = """
WITH counted AS (UPDATE tenant SET queued = queued + 1 WHERE tenant = $1)
INSERT INTO blocked (tenant, ordering_key, seq, run_id) VALUES ($1, $2, $3, $4)
"""


async def source(db: Database, tenant: str, run_id: UUID) -> Source:
    """Return a run to fork. Raises `RunNotFound`, also for one of another tenant."""
    async with db.connection() as connection:
        row = await connection.fetchrow(_SOURCE, run_id, tenant)
    if row is None:
        raise _unknown(run_id)
    return Source(**dict(row))


async def found(db: Database, tenant: str, wanted: tuple[str, bytes]) -> Forked | None:
    """Return what an earlier call under this key and fingerprint made. Raises `IdempotencyKeyReused`."""
    async with db.connection() as connection:
        return await _known(connection, tenant, *wanted)


async def steps_until(db: Database, of: Source, position: int) -> AsyncIterator[StoredStep]:
    """Yield the records of a run up to a position, page by page. Raises `RunNotForkable` if none are kept."""
    after = 0
    while after < position:
        async with db.connection() as connection:
            if not after and await connection.fetchval(_DROPPED, of.day):
                raise _gone(of.run_id)
            page = await page_of(connection, of.run_id, of.day, after, min(PAGE_ROWS, position - after))
        for step in page:
            if step.position <= position:
                yield step
        if not page:
            return
        after = page[-1].position


async def told_until(db: Database, of: Source) -> AsyncIterator[tuple[bytes, str | None]]:
    """Yield what a run's commits have told, in order: the serialized events, and what counts as emitted."""
    after = 0
    while True:
        async with db.connection() as connection:
            rows = await connection.fetch(_TOLD, of.run_id, of.day, after, 50)
        for row in rows:
            yield row["events"], row["emitted"]
        if not rows:
            return
        after = rows[-1]["first_sequence"]


async def view(db: Database, run_id: UUID) -> RunView:
    """Return a run that `fork` or `found` has named, without envelope and result. Raises `RunNotFound`."""
    async with db.connection() as connection:
        row = await connection.fetchrow(_VIEW, run_id)
    if row is None:
        raise _unknown(run_id)
    return run_view(row)


async def fork(db: Database, of: Source, wanted: Wanted) -> Forked:
    """Queue the new run, its records copied.

    Repeatable under its key and fingerprint; a crash makes all of it or nothing. Raises
    `IdempotencyKeyReused`, `QueueFull`, `RunNotForkable` if history was dropped meanwhile, and `RunNotFound`
    if the source was removed.
    """

    async def once() -> Forked:
        async with db.transaction() as connection:
            return await _fork(connection, of, wanted)

    return await db.retrying(once)


async def _fork(connection: Connection, of: Source, wanted: Wanted) -> Forked:
    room = await connection.fetchrow(_LOCK, of.tenant)
    known = await _known(connection, of.tenant, wanted.idempotency_key, wanted.fingerprint)
    if known is not None:
        return known
    if await connection.fetchrow(_KEEP_SOURCE, of.run_id) is None:
        raise _unknown(of.run_id)
    await connection.execute(_KEEP_HISTORY)
    if await connection.fetchval(_DROPPED, of.day):
        raise _gone(of.run_id)
    where = Door(Room(**dict(room))).enter(ordering_key="", delayed=False, to_runner=False)
    if where is Where.REFUSED:
        raise QueueFull("The tenant's queue is full.", retry_after=1.0, quota="max_queued")
    row = await _begin(connection, of, wanted)
    await connection.execute(
        _COPY,
        of.run_id,
        of.day,
        wanted.run_id,
        row["day"],
        list(wanted.kept),
        list(wanted.edited),
        list(wanted.edited.values()),
    )
    return Forked(wanted.run_id, True, await _queue(connection, of.tenant, wanted.run_id, row))


async def _begin(connection: Connection, of: Source, wanted: Wanted) -> Any:
    usage = wanted.usage
    return await connection.fetchrow(
        _BEGIN,
        of.run_id,
        wanted.run_id,
        wanted.idempotency_key,
        max(wanted.kept),
        usage.steps,
        usage.tools,
        usage.tokens,
        usage.context,
        wanted.fingerprint,
        wanted.emitted,
        of.tenant,
    )


async def _queue(connection: Connection, tenant: str, run_id: UUID, row: Any) -> Sequence[str]:
    lane = row["lane"]
    if lane and row["held"]:
        await connection.execute(_WAIT_BEHIND, tenant, lane, row["seq"], run_id)
        return ()
    if lane:
        await connection.execute(_TAKE_LANE, tenant, lane, run_id)
    return await enqueue(connection, [Place(run_id, tenant, row["pool"], row["rank"], row["seq"], lane)])


async def _known(connection: Connection, tenant: str, key: str, fingerprint: bytes) -> Forked | None:
    row = await connection.fetchrow(_KNOWN, tenant, key)
    if row is None:
        return None
    if row["fingerprint"] != fingerprint:
        raise IdempotencyKeyReused(
            "The idempotency key stands for another request.", facts={"run_id": str(row["run_id"])}
        )
    return Forked(row["run_id"], created=False)


def _unknown(run_id: UUID) -> RunNotFound:
    return RunNotFound("There is no such run.", facts={"run_id": str(run_id)})


def _gone(run_id: UUID) -> RunNotForkable:
    return RunNotForkable("The run's recorded steps are no longer kept.", facts={"run_id": str(run_id)})
