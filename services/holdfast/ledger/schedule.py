"""Schedules: created, replaced, read, listed, paused, resumed, deleted. What fires them is `schedule_fire`.

Each change takes the lock of the schedule's row, as a fire does, so a time either fires as the schedule was
or falls under what it has become.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import InvalidField, ScheduleExists, Violation
from holdfast.kit.ids import new_id
from holdfast.ledger.domain.schedule import Timing
from holdfast.ledger.schedule_row import (
    COLUMNS,
    MOST_FIRES,
    Definition,
    Fire,
    Schedule,
    fire_of,
    lock,
    schedule_of,
    unknown,
)
from holdfast.ledger.timing import due_time, next_time


@dataclass(frozen=True, slots=True)
class ScheduleFilter:
    """Which schedules; what is left empty does not filter."""

    intent: str = ""
    paused: bool | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


_GET: Final = f"SELECT {COLUMNS} FROM schedule WHERE tenant = $1 AND name = $2"  # noqa: S608 - a constant

_FIRES: Final = """
SELECT f.* FROM unnest($1::uuid[]) AS u (schedule_id)
CROSS JOIN LATERAL (
    SELECT * FROM schedule_fire WHERE schedule_id = u.schedule_id ORDER BY seq DESC LIMIT $2
) f
"""

_LIST: Final = f"""
SELECT {COLUMNS} FROM schedule
WHERE tenant = $1 AND name > $2 AND ($3 = '' OR intent = $3) AND ($4::boolean IS NULL OR paused = $4)
  AND labels @> $5::jsonb
ORDER BY name LIMIT $6
"""  # noqa: S608 - a constant of ours

# Waits for another's insert of the name, so the next statement sees whose it is.
_CREATE: Final = f"""
INSERT INTO schedule (schedule_id, tenant, name, definition, fingerprint, timing, intent, labels, overlap,
                      catch_up_s, paused, pause_reason)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, $8::jsonb, $9, $10, $11, $12)
ON CONFLICT (tenant, name) DO NOTHING
RETURNING {COLUMNS}
"""  # noqa: S608 - a constant of ours

_REPLACE: Final = f"""
UPDATE schedule SET definition = $2, fingerprint = $3, timing = $4::jsonb, intent = $5, labels = $6::jsonb,
                    overlap = $7, catch_up_s = $8, update_time = clock_timestamp()
WHERE schedule_id = $1 RETURNING {COLUMNS}
"""  # noqa: S608 - a constant of ours

_PAUSE: Final = f"""
UPDATE schedule SET paused = $2, pause_reason = $3, update_time = clock_timestamp()
WHERE schedule_id = $1 RETURNING {COLUMNS}
"""  # noqa: S608 - a constant of ours

# What waits for its turn is looked after too, also in a pause: a trigger may be among it.
_PLAN: Final = f"""
UPDATE schedule s
SET next_time = $2::timestamptz, due_time = $3::timestamptz,
    wake_time = least(CASE WHEN NOT s.paused THEN $3::timestamptz END,
                      (SELECT clock_timestamp() FROM schedule_pending p
                       WHERE p.schedule_id = s.schedule_id AND (NOT s.paused OR p.origin = 3) LIMIT 1))
WHERE s.schedule_id = $1 RETURNING {COLUMNS}
"""  # noqa: S608 - a constant of ours

_DELETE: Final = "DELETE FROM schedule WHERE schedule_id = $1"


async def create(db: Database, wanted: Definition) -> Schedule:
    """Create a schedule; creating the same again answers with what is there.

    A crash creates all or nothing. Raises `ScheduleExists` if the name stands for a different one, and
    `InvalidField` if it would never fire.
    """

    async def once() -> Schedule:
        async with db.transaction() as connection:
            row = await connection.fetchrow(
                _CREATE,
                new_id(),
                wanted.tenant,
                wanted.name,
                *_values(wanted),
                wanted.paused,
                wanted.pause_reason,
            )
            if row is None:
                return await _same(connection, wanted)
            made = schedule_of(row)
            return await _plan(connection, made, made.create_time, never_is_wrong=True)

    return await db.retrying(once)


async def _same(connection: Connection, wanted: Definition) -> Schedule:
    there = await get(connection, wanted.tenant, wanted.name)
    if there.wanted.fingerprint != wanted.fingerprint:
        raise ScheduleExists(
            "The name stands for a different schedule; update that one, or choose another name.",
            facts={"name": wanted.name},
        )
    return there


async def update(db: Database, wanted: Definition) -> Schedule:
    """Replace a schedule; what it has started, what waits and whether it is paused stay.

    Repeatable. A time that is due and has not fired yet stays due unless the rule changes. Raises
    `ScheduleNotFound`, and `InvalidField` for a rule that would never fire again.
    """

    async def once() -> Schedule:
        async with db.transaction() as connection:
            there, now = await lock(connection, wanted.tenant, wanted.name)
            row = await connection.fetchrow(_REPLACE, there.schedule_id, *_values(wanted))
            new = schedule_of(row)
            if there.wanted.timing != wanted.timing:
                new = await _plan(connection, new, now, never_is_wrong=True)
            return await _with_fires(connection, new)

    return await db.retrying(once)


async def pause(db: Database, tenant: str, name: str, reason: str) -> Schedule:
    """Keep a schedule from firing; one that is paused stays as it is. Raises `ScheduleNotFound`."""
    return await _switch(db, tenant, name, paused=True, reason=reason)


async def resume(db: Database, tenant: str, name: str) -> Schedule:
    """Let a schedule fire from its next time on, leaving out those of the pause. Repeatable."""
    return await _switch(db, tenant, name, paused=False, reason="")


async def _switch(db: Database, tenant: str, name: str, *, paused: bool, reason: str) -> Schedule:
    async def once() -> Schedule:
        async with db.transaction() as connection:
            there, now = await lock(connection, tenant, name)
            if there.wanted.paused != paused:
                row = await connection.fetchrow(_PAUSE, there.schedule_id, paused, reason)
                there = await _plan(connection, schedule_of(row), now)
            return await _with_fires(connection, there)

    return await db.retrying(once)


async def get(connection: Connection, tenant: str, name: str) -> Schedule:
    """Read a schedule with what came of its latest times. Raises `ScheduleNotFound`."""
    row = await connection.fetchrow(_GET, tenant, name)
    if row is None:
        raise unknown(name)
    return await _with_fires(connection, schedule_of(row))


async def list_schedules(
    connection: Connection, tenant: str, which: ScheduleFilter, *, limit: int, after: str = ""
) -> tuple[list[Schedule], str]:
    """Read a page by name, and the name to go on after; empty on the last page."""
    labels = json.dumps(dict(which.labels))
    rows = await connection.fetch(_LIST, tenant, after, which.intent, which.paused, labels, limit + 1)
    fires = await _fires(connection, [row["schedule_id"] for row in rows[:limit]])
    page = [schedule_of(row, tuple(fires.get(row["schedule_id"], ()))) for row in rows[:limit]]
    return page, page[-1].wanted.name if len(rows) > limit else ""


async def delete(db: Database, tenant: str, name: str) -> None:
    """Delete a schedule; what it has started goes on. Raises `ScheduleNotFound`."""

    async def once() -> None:
        async with db.transaction() as connection:
            there, _ = await lock(connection, tenant, name)
            await connection.execute(_DELETE, there.schedule_id)

    await db.retrying(once)


async def _plan(
    connection: Connection, schedule: Schedule, now: datetime, *, never_is_wrong: bool = False
) -> Schedule:
    """Set the next time after now."""
    time = next_time(schedule.timing, now)
    if time is None and never_is_wrong:
        wrong = Violation("schedule.timing", "has no time in the future")
        raise InvalidField("The schedule would never fire.", violations=[wrong])
    due = None if time is None else due_time(schedule.schedule_id, schedule.timing, time)
    return schedule_of(await connection.fetchrow(_PLAN, schedule.schedule_id, time, due))


async def _with_fires(connection: Connection, schedule: Schedule) -> Schedule:
    row = await connection.fetchrow(_GET, schedule.wanted.tenant, schedule.wanted.name)
    fires = await _fires(connection, [schedule.schedule_id])
    return schedule_of(row, tuple(fires.get(schedule.schedule_id, ())))


async def _fires(connection: Connection, ids: list[UUID]) -> dict[UUID, list[Fire]]:
    found: dict[UUID, list[Fire]] = {}
    for row in await connection.fetch(_FIRES, ids, MOST_FIRES):
        found.setdefault(row["schedule_id"], []).append(fire_of(row))
    return found


def _values(wanted: Definition) -> tuple[Any, ...]:
    timing: Timing = wanted.timing
    return (
        wanted.definition,
        wanted.fingerprint,
        json.dumps(timing.to_plain()),
        wanted.intent,
        json.dumps(wanted.labels),
        int(wanted.overlap),
        wanted.catch_up.total_seconds(),
    )
