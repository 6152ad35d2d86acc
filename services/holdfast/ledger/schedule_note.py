"""What a round has done about schedules, written down: what was taken, what waits, what came of each time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.domain.schedule import Result
from holdfast.ledger.schedule_plan import Plan, Waiting
from holdfast.ledger.schedule_row import MOST_FIRES, Fire, fire_of


@dataclass(frozen=True, slots=True)
class Note:
    """What came of one time."""

    plan: Plan
    here: Waiting
    result: Result
    run_id: UUID | None = None
    batch_id: UUID | None = None
    message: str = ""


_TAKE: Final = """
WITH taken AS (
    DELETE FROM schedule_pending p USING unnest($1::uuid[], $2::smallint[], $3::bigint[]) AS u (id, rank, seq)
    WHERE p.schedule_id = u.id AND p.rank = u.rank AND p.seq = u.seq
    RETURNING p.schedule_id, p.scheduled_time
)
DELETE FROM schedule_fire f USING taken t
WHERE f.schedule_id = t.schedule_id AND f.scheduled_time = t.scheduled_time AND f.result = 2
"""

_WAIT: Final = """
INSERT INTO schedule_pending (schedule_id, rank, scheduled_time, origin, trigger_key)
SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::timestamptz[], $4::smallint[], $5::text[])
ON CONFLICT DO NOTHING
"""

_NOTE: Final = """
INSERT INTO schedule_fire (schedule_id, scheduled_time, origin, result, run_id, batch_id, message,
                           trigger_key)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::smallint[], $4::smallint[], $5::uuid[], $6::uuid[],
                     $7::text[], $8::text[])
RETURNING scheduled_time, fire_time, origin, result, run_id, batch_id, message
"""

_TRIM: Final = """
DELETE FROM schedule_fire f
USING unnest($1::uuid[]) AS u (id) CROSS JOIN LATERAL (
    SELECT seq FROM schedule_fire WHERE schedule_id = u.id ORDER BY seq DESC OFFSET $2 LIMIT 1
) last
WHERE f.schedule_id = u.id AND f.seq <= last.seq
"""

# What waits is looked at again after a while, for nobody says that the older one has ended.
_ADVANCE: Final = """
UPDATE schedule s
SET next_time = u.next_time, due_time = u.due_time,
    run_id = CASE WHEN u.batch_id IS NULL THEN coalesce(u.run_id, s.run_id) END,
    batch_id = CASE WHEN u.run_id IS NULL THEN coalesce(u.batch_id, s.batch_id) END,
    wake_time = least(CASE WHEN NOT s.paused THEN u.due_time END,
                      (SELECT clock_timestamp() + make_interval(secs => u.again) FROM schedule_pending p
                       WHERE p.schedule_id = s.schedule_id AND (NOT s.paused OR p.origin = 3) LIMIT 1))
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::uuid[], $5::uuid[], $6::float8[])
    AS u (schedule_id, next_time, due_time, run_id, batch_id, again)
WHERE s.schedule_id = u.schedule_id
"""


async def write(
    connection: Connection, plans: Sequence[Plan], notes: Sequence[Note], now: datetime
) -> list[Fire]:
    """Write down what was done about these schedules, and when each is looked at next."""
    taken = [(p.schedule.schedule_id, p.start.rank, p.start.seq) for p in plans if p.start and p.start.seq]
    if taken:
        await connection.execute(_TAKE, *map(list, zip(*taken, strict=True)))
    behind = [(plan.schedule.schedule_id, each) for plan in plans for each in plan.behind]
    if behind:
        await wait(connection, behind)
    fires = await _note(connection, notes) if notes else []
    await connection.execute(
        _ADVANCE,
        [plan.schedule.schedule_id for plan in plans],
        [plan.next_time for plan in plans],
        [plan.due_time for plan in plans],
        [plan.run_id for plan in plans],
        [plan.batch_id for plan in plans],
        [plan.again(now).total_seconds() for plan in plans],
    )
    return fires


async def _note(connection: Connection, notes: Sequence[Note]) -> list[Fire]:
    # A schedule's latest comes last; more than are kept need not be written.
    by_schedule: dict[UUID, list[Note]] = {}
    for note in sorted(notes, key=lambda each: each.here.time):
        by_schedule.setdefault(note.plan.schedule.schedule_id, []).append(note)
    latest = [(schedule, note) for schedule, many in by_schedule.items() for note in many[-MOST_FIRES:]]
    rows = await connection.fetch(
        _NOTE,
        [schedule for schedule, _ in latest],
        [note.here.time for _, note in latest],
        [int(note.here.origin) for _, note in latest],
        [int(note.result) for _, note in latest],
        [note.run_id for _, note in latest],
        [note.batch_id for _, note in latest],
        [note.message for _, note in latest],
        [note.here.trigger_key for _, note in latest],
    )
    await connection.execute(_TRIM, list(by_schedule), MOST_FIRES)
    return [fire_of(row) for row in rows]


async def wait(connection: Connection, behind: Sequence[tuple[UUID, Waiting]]) -> None:
    """Let times wait, in order; one that is made up for already is not doubled."""
    await connection.execute(
        _WAIT,
        [schedule_id for schedule_id, _ in behind],
        [each.rank for _, each in behind],
        [each.time for _, each in behind],
        [int(each.origin) for _, each in behind],
        [each.trigger_key for _, each in behind],
    )
