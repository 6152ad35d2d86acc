"""A schedule's row, read: what the verbs about schedules share."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import ScheduleNotFound
from holdfast.ledger.domain.schedule import Origin, Overlap, Result, Timing

COLUMNS: Final = (
    "schedule_id, tenant, name, definition, fingerprint, timing, intent, labels, overlap, catch_up_s, "
    "paused, pause_reason, next_time, due_time, wake_time, run_id, batch_id, create_time, update_time"
)
_OWN: Final = (
    "schedule_id", "next_time", "due_time", "wake_time", "run_id", "batch_id", "create_time", "update_time"
)  # fmt: skip
MOST_FIRES: Final = 20
"""How many of the latest times are kept."""


@dataclass(frozen=True, slots=True)
class Fire:
    """What came of one time; `message` is empty for one that started a run or a batch."""

    scheduled_time: datetime
    fire_time: datetime
    origin: Origin
    result: Result
    run_id: UUID | None = None
    batch_id: UUID | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """A schedule as someone wants it; `action` is what it starts, as the caller keeps it.

    The interval of `timing` may have no anchor: it becomes the schedule's creation.
    """

    tenant: str
    name: str
    definition: bytes
    fingerprint: bytes
    timing: Timing
    intent: str
    labels: dict[str, str]
    overlap: Overlap
    catch_up: timedelta
    paused: bool = False
    pause_reason: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands; `run_id` or `batch_id` is what it started last."""

    schedule_id: UUID
    wanted: Definition
    next_time: datetime | None
    due_time: datetime | None
    wake_time: datetime | None
    run_id: UUID | None
    batch_id: UUID | None
    create_time: datetime
    update_time: datetime
    fires: tuple[Fire, ...] = ()

    @property
    def timing(self) -> Timing:
        """Its rule, an interval anchored."""
        return self.wanted.timing.anchored(self.create_time)


def schedule_of(row: Any, fires: tuple[Fire, ...] = ()) -> Schedule:
    """Read a row of `COLUMNS`."""
    wanted = Definition(
        tenant=row["tenant"],
        name=row["name"],
        definition=row["definition"],
        fingerprint=row["fingerprint"],
        timing=Timing.from_plain(json.loads(row["timing"])),
        intent=row["intent"],
        labels=json.loads(row["labels"]),
        overlap=Overlap(row["overlap"]),
        catch_up=timedelta(seconds=row["catch_up_s"]),
        paused=row["paused"],
        pause_reason=row["pause_reason"],
    )
    return Schedule(wanted=wanted, fires=fires, **{name: row[name] for name in _OWN})


def fire_of(row: Any) -> Fire:
    """Read a row of `schedule_fire`."""
    return Fire(
        row["scheduled_time"],
        row["fire_time"],
        Origin(row["origin"]),
        Result(row["result"]),
        row["run_id"],
        row["batch_id"],
        row["message"],
    )


_LOCK: Final = f"""
SELECT {COLUMNS} FROM schedule WHERE tenant = $1 AND name = $2 FOR NO KEY UPDATE
"""  # noqa: S608 - a constant of ours

_NOW: Final = "SELECT clock_timestamp()"


async def lock(connection: Connection, tenant: str, name: str) -> tuple[Schedule, datetime]:
    """Lock a schedule before anything else is locked; return it and the time. Raises `ScheduleNotFound`."""
    row = await connection.fetchrow(_LOCK, tenant, name)
    if row is None:
        raise unknown(name)
    return schedule_of(row), await connection.fetchval(_NOW)


def unknown(name: str) -> ScheduleNotFound:
    """Return the fault about a name that stands for no schedule."""
    return ScheduleNotFound("There is no such schedule.", facts={"name": name})
