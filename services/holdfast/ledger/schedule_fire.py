"""Schedules fire: each time once, in one transaction with its run's admission and the step to the next time.

    schedules whose time has come (locked, those locked by others passed by)
        ──▶ what to do about each time (`domain.schedule`) ──▶ olders cancelled, runs admitted as one group
        ──▶ what came of it, what waits, the next time

Locks schedules, then tenants, then runs. The clock is the database's. A crash fires all of a round or nothing
of it; a time that has started something is found by the run's idempotency key, whoever fires it again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import Fault, QueueFull, RateLimited
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.admission import Placements, admit_within
from holdfast.ledger.cancel import Cancelled, cancel_within
from holdfast.ledger.domain.schedule import Origin, Result
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.schedule_note import Note, write
from holdfast.ledger.schedule_plan import Plan, Waiting, key_of, plan_due
from holdfast.ledger.schedule_row import COLUMNS, Fire, Schedule, schedule_of
from holdfast.ledger.values import Invocation, Refused

ROUND: Final = 64
"""Schedules that fire in one transaction."""
CANCEL_REASON: Final = "Its schedule has started a newer one."

Starter = Callable[[Schedule, datetime, str], Invocation]
"""Makes the run of a schedule for a time, under an idempotency key; may raise the Fault that refuses it."""

_log = logger("schedule")


@dataclass(slots=True)
class Fired:
    """What a round has done: how many schedules it has looked after, pools that got work, runs cancelled."""

    count: int = 0
    fires: list[Fire] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    cancelled: list[tuple[UUID, Cancelled]] = field(default_factory=list)


_DUE: Final = f"""
SELECT {COLUMNS} FROM schedule
WHERE wake_time <= now() ORDER BY wake_time LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608 - a constant of ours

# Read under the schedules' locks.
_STANDING: Final = """
SELECT clock_timestamp() AS now, u.schedule_id,
       EXISTS (SELECT FROM run_state s WHERE s.run_id = u.run_id AND s.end_time IS NULL) AS busy,
       EXISTS (SELECT FROM schedule_pending p WHERE p.schedule_id = u.schedule_id AND p.rank = 0) AS waiting,
       h.rank, h.seq, h.scheduled_time, h.origin, h.trigger_key, h.since_time
FROM unnest($1::uuid[], $2::uuid[], $3::boolean[]) AS u (schedule_id, run_id, paused)
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
    """Do what is planned for locked schedules: cancel, admit, and write down what came of it.

    Raises what refuses the run of a trigger.
    """
    fired = Fired(len(plans))
    notes = [Note(plan, here, result, None, why) for plan in plans for here, result, why in plan.left]
    starts: list[tuple[Plan, Waiting, Invocation]] = []
    for plan in plans:
        if plan.start is None:
            continue
        try:
            made = starter(plan.schedule, plan.start.time, key_of(plan.schedule, plan.start))
            starts.append((plan, plan.start, made))
        except Fault as fault:
            notes.append(Note(plan, plan.start, Result.FAILED, None, fault.message))
        except Exception as error:  # noqa: BLE001 - one schedule must not keep the others from firing
            _log.error("a schedule cannot start", error=error, name=plan.schedule.wanted.name)
            notes.append(Note(plan, plan.start, Result.FAILED, None, "What it starts cannot be read."))
    if starts:
        await _cancel(connection, starts, fired)
        notes += await _admit(connection, starts, fired)
    fired.fires = await write(connection, plans, notes, now)
    return fired


async def _cancel(
    connection: Connection, starts: Sequence[tuple[Plan, Waiting, Invocation]], fired: Fired
) -> None:
    await lock_tenants(connection, {made.tenant for _, _, made in starts})
    for plan, _, made in starts:
        if plan.cancel is not None:
            told = await cancel_within(connection, made.tenant, plan.cancel, CANCEL_REASON)
            fired.cancelled.append((plan.cancel, told))


async def _admit(
    connection: Connection, starts: Sequence[tuple[Plan, Waiting, Invocation]], fired: Fired
) -> list[Note]:
    notes: list[Note] = []
    answers = await admit_within(connection, [made for _, _, made in starts], Placements())
    for (plan, here, _), answer in zip(starts, answers, strict=True):
        if not isinstance(answer, Refused):
            plan.run_id = answer.run_id
            notes.append(Note(plan, here, Result.STARTED, answer.run_id))
            if answer.created:
                fired.pools.append(answer.pool)
        elif here.seq is not None and isinstance(answer.fault, QueueFull | RateLimited):
            plan.start = None  # it waits on
        elif here.origin is Origin.TRIGGER and here.seq is None:
            raise answer.fault
        else:
            notes.append(Note(plan, here, Result.FAILED, None, answer.fault.message))
    return notes
