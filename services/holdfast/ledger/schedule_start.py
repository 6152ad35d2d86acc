"""Schedules start what they start: olders cancelled, runs admitted as one group, batches made.

All of it in the transaction that has locked the schedules, so what a schedule's times have started is known:
a run or a batch has the key of its time, and a time that has started one starts nothing more.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import BatchNotReady, Fault, QueueFull, RateLimited
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import batch
from holdfast.ledger.admission import Placements, admit_within
from holdfast.ledger.batch import NewBatch
from holdfast.ledger.cancel import Cancelled, cancel_within
from holdfast.ledger.domain.schedule import Origin, Result
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.schedule_note import Note
from holdfast.ledger.schedule_plan import Plan, Waiting, key_of
from holdfast.ledger.schedule_row import Fire, Schedule
from holdfast.ledger.values import Invocation, Refused

CANCEL_REASON: Final = "Its schedule has started a newer one."

Starter = Callable[[Schedule, datetime, str], Invocation | NewBatch]
"""Makes what a schedule starts for a time, under an idempotency key; may raise the Fault that refuses it."""

_log = logger("schedule")


@dataclass(slots=True)
class Fired:
    """What a round has done: schedules looked after, pools that got work, runs cancelled, batches changed."""

    count: int = 0
    fires: list[Fire] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    cancelled: list[tuple[UUID, Cancelled]] = field(default_factory=list)
    batches: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """What a time has started, when."""

    time: datetime
    run_id: UUID | None
    batch_id: UUID | None


@dataclass(frozen=True, slots=True)
class _Start:
    plan: Plan
    here: Waiting
    made: Invocation | NewBatch


_STARTED: Final = """
SELECT u.key, coalesce(r.create_time, b.create_time) AS time, r.run_id,
       CASE WHEN r.run_id IS NULL THEN b.batch_id END AS batch_id
FROM unnest($1::text[], $2::text[]) AS u (tenant, key)
LEFT JOIN idempotency i ON i.tenant = u.tenant AND i.idempotency_key = u.key
LEFT JOIN run r ON r.run_id = i.run_id
LEFT JOIN batch b ON b.tenant = u.tenant AND b.idempotency_key = u.key
WHERE r.run_id IS NOT NULL OR b.batch_id IS NOT NULL
"""


async def started(connection: Connection, keys: Mapping[str, str]) -> dict[str, Started]:
    """Return what was started under which keys, of those given with their tenants."""
    rows = await connection.fetch(_STARTED, list(keys.values()), list(keys))
    return {row["key"]: Started(row["time"], row["run_id"], row["batch_id"]) for row in rows}


async def start(
    connection: Connection, plans: Sequence[Plan], starter: Starter, fired: Fired
) -> Sequence[Note]:
    """Start what is planned for locked schedules; return what came of each time.

    Raises what refuses the run or the batch of a trigger.
    """
    if not plans:
        return []
    keys = [key_of(plan.schedule, plan.start) for plan in plans if plan.start is not None]
    tenants = [plan.schedule.wanted.tenant for plan in plans]
    before = await started(connection, dict(zip(keys, tenants, strict=True)))
    notes: list[Note] = []
    starts: list[_Start] = []
    for plan, key in zip(plans, keys, strict=True):
        assert plan.start is not None, "planned to start"
        if key in before:
            notes.append(_told(plan, plan.start, before[key].run_id, before[key].batch_id))
            continue
        try:
            starts.append(_Start(plan, plan.start, starter(plan.schedule, plan.start.time, key)))
        except Fault as fault:
            notes.append(Note(plan, plan.start, Result.FAILED, message=fault.message))
        except Exception as error:  # noqa: BLE001 - one schedule must not keep the others from firing
            _log.error("a schedule cannot start", error=error, name=plan.schedule.wanted.name)
            notes.append(Note(plan, plan.start, Result.FAILED, message="What it starts cannot be read."))
    if starts:
        await lock_tenants(connection, set(tenants))
        await _cancel(connection, starts, fired)
        notes += await _admit(connection, starts, fired)
        notes += await _make(connection, starts, fired)
    return notes


async def _cancel(connection: Connection, starts: Sequence[_Start], fired: Fired) -> None:
    for each in starts:
        older, tenant = each.plan.schedule, each.plan.schedule.wanted.tenant
        if each.plan.cancels and older.run_id is not None:
            told = await cancel_within(connection, tenant, older.run_id, CANCEL_REASON)
            fired.cancelled.append((older.run_id, told))
        elif each.plan.cancels and older.batch_id is not None:
            with suppress(BatchNotReady):  # it has ended meanwhile
                await batch.cancel_within(connection, tenant, older.batch_id, CANCEL_REASON)
            fired.batches += 1


async def _admit(connection: Connection, starts: Sequence[_Start], fired: Fired) -> list[Note]:
    """Admit the runs among what is started."""
    notes: list[Note] = []
    runs = [(each, each.made) for each in starts if isinstance(each.made, Invocation)]
    answers = await admit_within(connection, [made for _, made in runs], Placements()) if runs else []
    for (each, _), answer in zip(runs, answers, strict=True):
        plan, here = each.plan, each.here
        if not isinstance(answer, Refused):
            notes.append(_told(plan, here, answer.run_id, None))
            if answer.created:
                fired.pools.append(answer.pool)
        elif here.seq is not None and isinstance(answer.fault, QueueFull | RateLimited):
            plan.start = None  # it waits on
        elif here.origin is Origin.TRIGGER and here.seq is None:
            raise answer.fault
        else:
            notes.append(Note(plan, here, Result.FAILED, message=answer.fault.message))
    return notes


async def _make(connection: Connection, starts: Sequence[_Start], fired: Fired) -> list[Note]:
    """Make the batches among what is started."""
    notes: list[Note] = []
    for each in starts:
        if not isinstance(each.made, NewBatch):
            continue
        made = await batch.create_within(connection, each.made)
        notes.append(_told(each.plan, each.here, None, made.batch.batch_id))
        fired.batches += 1
    return notes


def _told(plan: Plan, here: Waiting, run_id: UUID | None, batch_id: UUID | None) -> Note:
    plan.run_id, plan.batch_id = run_id, batch_id
    return Note(plan, here, Result.STARTED, run_id, batch_id)
