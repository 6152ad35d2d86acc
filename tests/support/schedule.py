"""What tests of schedules share: schedules whose time has come, and their runs."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.kit.db import Database
from holdfast.ledger import schedule
from holdfast.ledger.batch import NewBatch
from holdfast.ledger.domain.schedule import Overlap, Timing
from holdfast.ledger.schedule_fire import fire_due
from holdfast.ledger.schedule_row import Definition, Fire, Schedule
from holdfast.ledger.schedule_start import Fired, Starter
from holdfast.ledger.values import Invocation
from tests.support.ledger import execute, invocation

HOUR = timedelta(hours=1)
EACH_HOUR = Timing(interval=HOUR, anchor=datetime(2026, 1, 1, tzinfo=UTC))


def wanted(name: str = "nightly", **more: Any) -> Definition:
    """Return a schedule with the defaults of a test."""
    values: dict[str, Any] = {
        "tenant": "acme",
        "definition": b"",
        "fingerprint": name.encode(),
        "timing": EACH_HOUR,
        "intent": "count",
        "labels": {},
        "overlap": Overlap.SKIP,
        "catch_up": timedelta(minutes=1),
    }
    return Definition(name=name, **values | more)


def starter(one: Schedule, time: datetime, key: str) -> Invocation:
    """Make the run of a time."""
    return invocation(tenant=one.wanted.tenant, idempotency_key=key, fingerprint=time.isoformat().encode())


def batch_starter(one: Schedule, time: datetime, key: str) -> NewBatch:
    """Make the batch of a time."""
    return NewBatch(
        uuid.uuid4(),
        one.wanted.tenant,
        "count",
        idempotency_key=key,
        fingerprint=time.isoformat().encode(),
        spec=b"",
        schedule=one.wanted.name,
        start_when_uploaded=True,
        sourced=True,
    )


async def fire(db: Database, make: Starter = starter) -> Fired:
    """Fire a round."""
    return await fire_due(db, make)


async def fall_due(db: Database, name: str = "nightly", *, late: timedelta = timedelta()) -> None:
    """Let the whole rule have begun earlier, so that a time was due `late` ago."""
    await execute(
        db,
        """
        UPDATE schedule SET timing = jsonb_set(timing, '{anchor}', to_jsonb(due)),
                            next_time = due, due_time = due, wake_time = due
        FROM (SELECT clock_timestamp() - $2::interval AS due) d WHERE name = $1
        """,
        name,
        late,
    )


async def look_again(db: Database) -> None:
    """Let what waits be looked at now."""
    await execute(
        db,
        """
        UPDATE schedule SET wake_time = now()
        WHERE EXISTS (SELECT FROM schedule_pending p WHERE p.schedule_id = schedule.schedule_id)
        """,
    )


async def read(db: Database, name: str = "nightly", tenant: str = "acme") -> Schedule:
    """Read a schedule."""
    async with db.connection() as connection:
        return await schedule.get(connection, tenant, name)


async def fires(db: Database, name: str = "nightly") -> list[Fire]:
    """Read what came of a schedule's times, the oldest first."""
    return list(reversed((await read(db, name)).fires))
