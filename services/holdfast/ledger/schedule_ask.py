"""What people ask of a schedule: fire now, fire for times that have started nothing."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import islice
from typing import Final

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import InvalidField, QueueFull, Violation
from holdfast.kit.ids import new_id
from holdfast.ledger.domain.schedule import Origin, Overlap, Result
from holdfast.ledger.schedule import get
from holdfast.ledger.schedule_fire import carry_out, stand
from holdfast.ledger.schedule_note import wait
from holdfast.ledger.schedule_plan import Waiting, decide, key_of, time_key
from holdfast.ledger.schedule_row import Fire, Schedule, fire_of, lock
from holdfast.ledger.schedule_start import Fired, Starter, started
from holdfast.ledger.timing import times

MOST_TIMES: Final = 10_000
"""Times of one backfill, and times that may wait of one schedule."""

_FIRED: Final = """
SELECT scheduled_time, fire_time, origin, result, run_id, batch_id, message FROM schedule_fire
WHERE schedule_id = $1 AND trigger_key = $2 ORDER BY seq DESC LIMIT 1
"""

_COUNT: Final = "SELECT count(*) FROM schedule_pending WHERE schedule_id = $1"

_WAKE: Final = """
UPDATE schedule SET wake_time = least(wake_time, clock_timestamp()) WHERE schedule_id = $1 AND NOT paused
"""


@dataclass(frozen=True, slots=True)
class Backfill:
    """The times that a backfill fires, or would."""

    times: Sequence[datetime]


async def trigger(
    db: Database, tenant: str, name: str, starter: Starter, *, key: str = "", overlap: Overlap | None = None
) -> tuple[Fire, Fired]:
    """Fire now, also in a pause; the next time stays where it is.

    Repeatable with the same `key`: it fires once, and is answered with what came of it. Raises
    `ScheduleNotFound`, and what refuses the run (`QueueFull`, `RateLimited`); then nothing has happened.
    """
    told = sha256(key.encode()).hexdigest() if key else str(new_id())

    async def once() -> tuple[Fire, Fired]:
        async with db.transaction() as connection:
            schedule, _ = await lock(connection, tenant, name)
            before = await _fired(connection, schedule, told) if key else None
            if before is not None:
                return before, Fired()
            (plan,), now = await stand(connection, [schedule])
            decide(plan, Waiting(now, Origin.TRIGGER, 0, told), overlap or schedule.wanted.overlap)
            fired = await carry_out(connection, [plan], now, starter)
            return fired.fires[0], fired

    return await db.retrying(once)


async def _fired(connection: Connection, schedule: Schedule, key: str) -> Fire | None:
    row = await connection.fetchrow(_FIRED, schedule.schedule_id, key)
    if row is not None:
        return fire_of(row)
    # One of long ago is found by what it has started.
    whole = key_of(schedule, Waiting(schedule.create_time, Origin.TRIGGER, 0, key))
    found = (await started(connection, {whole: schedule.wanted.tenant})).get(whole)
    if found is None:
        return None
    return Fire(found.time, found.time, Origin.TRIGGER, Result.STARTED, found.run_id, found.batch_id)


async def backfill(
    db: Database, tenant: str, name: str, start: datetime, end: datetime, *, dry_run: bool = False
) -> Backfill:
    """Let the times from `start` on and before `end` that have started nothing fire, one after the other.

    Repeatable: none is fired twice. Raises `ScheduleNotFound`, `QueueFull` if too many wait, and
    `InvalidField` for a range in the future or one of too many times.
    """
    while True:
        async with db.connection() as connection:
            seen = await get(connection, tenant, name)
        found = await asyncio.to_thread(lambda: list(islice(times(seen.timing, start, end), MOST_TIMES + 1)))  # noqa: B023

        async def once(seen: Schedule = seen, found: Sequence[datetime] = found) -> Backfill | None:
            async with db.transaction() as connection:
                there, now = await lock(connection, tenant, name)
                if (there.schedule_id, there.timing) != (seen.schedule_id, seen.timing):
                    return None
                _check(end, now, found)
                return await _wait(connection, there, found, dry_run=dry_run)

        accepted = await db.retrying(once)
        if accepted is not None:
            return accepted


def _check(end: datetime, now: datetime, found: Sequence[datetime]) -> None:
    if end > now + timedelta(seconds=1):
        wrong = Violation("end_time", "must not be in the future")
        raise InvalidField("Only times in the past can be made up for.", violations=[wrong])
    if len(found) > MOST_TIMES:
        wrong = Violation("end_time", f"must not leave more than {MOST_TIMES:,} times in the range")
        raise InvalidField("The range has too many times.", violations=[wrong])


async def _wait(
    connection: Connection, schedule: Schedule, found: Sequence[datetime], *, dry_run: bool
) -> Backfill:
    keys = {time_key(schedule.schedule_id, time): time for time in found}
    for known in await started(connection, dict.fromkeys(keys, schedule.wanted.tenant)):
        del keys[known]
    chosen = list(keys.values())
    if dry_run or not chosen:
        return Backfill(chosen)
    if await connection.fetchval(_COUNT, schedule.schedule_id) + len(chosen) > MOST_TIMES:
        raise QueueFull(
            f"At most {MOST_TIMES:,} times of a schedule can wait.", retry_after=60.0, quota="pending_times"
        )
    behind = [(schedule.schedule_id, Waiting(time, Origin.BACKFILL, 1)) for time in chosen]
    await wait(connection, behind)
    await connection.execute(_WAKE, schedule.schedule_id)
    return Backfill(chosen)
