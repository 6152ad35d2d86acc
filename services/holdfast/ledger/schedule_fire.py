"""Schedules fire: each time once, in one transaction with its run's admission and the step to the next time.

    schedules whose time has come (locked, those locked by others passed by)
        ──▶ what to do about each time (`domain.schedule`) ──▶ what it starts (`schedule_start`)
        ──▶ what came of it, what waits, the next time

Locks schedules, then tenants, then runs and batches. The clock is the database's. A crash fires all of a
round or nothing of it; a time that has started something is found by its idempotency key, whoever fires it
again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from holdfast.kit.db import Connection, Database
from holdfast.ledger.domain.schedule import Origin
from holdfast.ledger.schedule_note import Note, write
from holdfast.ledger.schedule_plan import Plan, Waiting, plan_due
from holdfast.ledger.schedule_row import COLUMNS, Schedule, schedule_of
from holdfast.ledger.schedule_start import Fired, Starter, start

ROUND: Final = 64
"""Schedules that fire in one transaction."""

_DUE: Final = f"""
SELECT {COLUMNS} FROM schedule
WHERE wake_time <= now() ORDER BY wake_time LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608 - a constant of ours

# Read under the schedules' locks.
_STANDING: Final = """
SELECT clock_timestamp() AS now, u.schedule_id,
       EXISTS (SELECT FROM run_state s WHERE s.run_id = u.run_id AND s.end_time IS NULL)
       OR EXISTS (SELECT FROM batch b WHERE b.batch_id = u.batch_id AND b.end_time IS NULL) AS busy,
       EXISTS (SELECT FROM schedule_pending p WHERE p.schedule_id = u.schedule_id AND p.rank = 0) AS waiting,
       h.rank, h.seq, h.scheduled_time, h.origin, h.trigger_key, h.since_time
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::boolean[]) AS u (schedule_id, run_id, batch_id, paused)
LEFT JOIN LATERAL (
    SELECT * FROM schedule_pending p
    WHERE p.schedule_id = u.schedule_id AND (NOT u.paused OR p.origin = 3) ORDER BY p.rank, p.seq LIMIT 1
) h ON true
"""


async def fire_due(db: Database, starter: Starter, *, limit: int = ROUND) -> Fired:
    """Fire up to `limit` schedules whose time has come, and move on what waited. Repeatable.

    A run that is refused fails its time alone; what waits for its turn goes on waiting while the tenant's
    queue is full.
    """

    async def once() -> Fired:
        async with db.transaction() as connection:
            due = [schedule_of(row) for row in await connection.fetch(_DUE, limit)]
            if not due:
                return Fired()
            plans, now = await stand(connection, due)
            for plan in plans:
                if not plan.schedule.wanted.paused:
                    plan_due(plan, now)
                if plan.start is None and plan.head is not None and not plan.busy:
                    plan.start = plan.head
            return await carry_out(connection, plans, now, starter)

    return await db.retrying(once)


async def stand(connection: Connection, schedules: Sequence[Schedule]) -> tuple[list[Plan], datetime]:
    """Return how locked schedules stand, with nothing planned yet, and the time."""
    by_id = {each.schedule_id: each for each in schedules}
    rows = await connection.fetch(
        _STANDING,
        list(by_id),
        [each.run_id for each in schedules],
        [each.batch_id for each in schedules],
        [each.wanted.paused for each in schedules],
    )
    plans = []
    for row in rows:
        one = by_id[row["schedule_id"]]
        head = None if row["seq"] is None else _head(row)
        plans.append(Plan(one, row["busy"], row["waiting"], head, one.next_time, one.due_time))
    return plans, rows[0]["now"]


def _head(row: Any) -> Waiting:
    return Waiting(
        row["scheduled_time"],
        Origin(row["origin"]),
        row["rank"],
        row["trigger_key"],
        row["seq"],
        row["since_time"],
    )


async def carry_out(connection: Connection, plans: Sequence[Plan], now: datetime, starter: Starter) -> Fired:
    """Do what is planned for locked schedules: cancel, start, and write down what came of it.

    Raises what refuses the run or the batch of a trigger.
    """
    fired = Fired(len(plans))
    notes = [Note(plan, here, result, message=why) for plan in plans for here, result, why in plan.left]
    notes += await start(connection, [plan for plan in plans if plan.start is not None], starter, fired)
    fired.fires = await write(connection, plans, notes, now)
    return fired
