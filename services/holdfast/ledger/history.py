"""A run's history is read in pages of bounded bytes: for its replay by whoever holds it, and for people."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from holdfast.kit.db import Database
from holdfast.kit.errors import RunNotFound
from holdfast.ledger.lease_held import held
from holdfast.ledger.session_state import Found, load

PAGE_ROWS: Final = 500
PAGE_BYTES: Final = 1024 * 1024
"""A page ends before it grows over this, but has at least one record."""

_OWNED: Final = "SELECT day FROM run_state WHERE run_id = $1 AND tenant = $2"

# octet_length knows a stored value's size without fetching it.
_PAGE: Final = """
SELECT position, attempt, key, record, create_time,
       extract(epoch FROM clock_timestamp() - create_time)::float8 AS age_s
FROM (
    SELECT *, sum(octet_length(record)) OVER (ORDER BY position) AS bytes,
           row_number() OVER (ORDER BY position) AS ordinal
    FROM (SELECT * FROM checkpoint WHERE run_id = $1 AND day = $2 AND position > $3
          ORDER BY position LIMIT $4) next
) sized
WHERE ordinal = 1 OR bytes <= $5
ORDER BY position"""

_EMITTED: Final = """
SELECT e.key, sum(e.value::bigint)::bigint AS events
FROM transcript t, jsonb_each_text(t.emitted) e
WHERE t.run_id = $1 AND t.day = $2 AND t.emitted IS NOT NULL
GROUP BY e.key"""


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A recorded step; `record` is the serialized StepRecord, `attempt` the run's that recorded it.

    `age_s` is how many seconds ago that was when it was read, by the ledger's clock.
    """

    position: int
    attempt: int
    key: str
    record: bytes
    create_time: datetime
    age_s: float


@dataclass(frozen=True, slots=True)
class StepPage:
    """A page of a run's recorded steps, the oldest first."""

    steps: list[StoredStep]
    more: bool


@dataclass(frozen=True, slots=True)
class PastPage(StepPage):
    """A page of what a replay needs; `emitted` is what each scope has emitted, told on the last page."""

    emitted: dict[str, int]


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a lease begins with beside the steps: what each scope has emitted, and what its session holds.

    And whether the run is in the background.
    """

    emitted: dict[str, int]
    session: Found | None
    handed_off: bool


async def load_steps(db: Database, run_id: uuid.UUID, epoch: int) -> AsyncIterator[StepPage]:
    """Yield the recorded steps of a leased run, for the holder of its lease; at least one page.

    Borrows a connection per page, none while the reader takes its time. Raises `RunNotFound`, and `Fenced` if
    the lease has ended, also between pages.
    """
    position = 0
    while True:
        async with db.connection() as connection:
            run = await held(connection, run_id, epoch)
            day, last = run["day"], run["last_position"]
            steps = await page_of(connection, run_id, day, position, PAGE_ROWS)
        position = steps[-1].position if steps else last
        yield StepPage(steps, more=position < last)
        if position >= last:
            return


async def beginning(db: Database, run_id: uuid.UUID, epoch: int) -> Beginning:
    """Return how many of its own events each scope has committed, and the session; errors as `load_steps`."""
    async with db.connection() as connection:
        run = await held(connection, run_id, epoch)
        emitted = await _emitted(connection, run_id, run["day"])
        session = await load(connection, run["tenant"], run["ordering_key"], run_id)
    return Beginning(emitted, session, run["handed_off"])


async def list_steps(
    db: Database, tenant: str, run_id: uuid.UUID, *, after_position: int, limit: int
) -> StepPage:
    """Return the recorded steps after a position, at most `limit` or fewer if they are large.

    Raises `RunNotFound` also for a run of another tenant.
    """
    async with db.connection() as connection:
        day = await _owned(connection, tenant, run_id)
        return await _page_after(connection, run_id, day, after_position, limit)


async def list_past(
    db: Database, tenant: str, run_id: uuid.UUID, *, after_position: int, limit: int
) -> PastPage:
    """Return the same with what each scope has emitted.

    Of a run that goes on, that is read after the steps: it may tell of later ones, and never lacks what goes
    with these.
    """
    async with db.connection() as connection:
        day = await _owned(connection, tenant, run_id)
        page = await _page_after(connection, run_id, day, after_position, limit)
        emitted = {} if page.more else await _emitted(connection, run_id, day)
    return PastPage(page.steps, page.more, emitted)


async def _owned(connection: Any, tenant: str, run_id: uuid.UUID) -> Any:
    day = await connection.fetchval(_OWNED, run_id, tenant)
    if day is None:
        raise RunNotFound("There is no such run.", facts={"run_id": str(run_id)})
    return day


async def _emitted(connection: Any, run_id: uuid.UUID, day: Any) -> dict[str, int]:
    rows = await connection.fetch(_EMITTED, run_id, day)
    return {row["key"]: row["events"] for row in rows}


async def _page_after(connection: Any, run_id: uuid.UUID, day: Any, after: int, limit: int) -> StepPage:
    found = await page_of(connection, run_id, day, after, limit + 1)
    # One more than asked for says that there is more; fewer may still be a page full of bytes.
    steps = found[:limit]
    more = len(found) > limit or bool(steps and await page_of(connection, run_id, day, steps[-1].position, 1))
    return StepPage(steps, more)


async def page_of(connection: Any, run_id: uuid.UUID, day: Any, after: int, limit: int) -> list[StoredStep]:
    """Return the records after a position: at most `limit`, fewer if they are large; at least one if any."""
    rows = await connection.fetch(_PAGE, run_id, day, after, limit, PAGE_BYTES)
    return [StoredStep(*row.values()) for row in rows]
