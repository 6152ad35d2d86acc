"""Cancelling: a run that waits ends at once; one that runs is marked, and its runner told."""

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import RunNotFound
from holdfast.ledger.domain.status import ENDED, LEASED, RunStatus
from holdfast.ledger.holder import Holder
from holdfast.ledger.platform_move import COLUMNS, Ending, Moved, cancelled, end, standing
from holdfast.ledger.release import lock_tenants


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Where a run stands after someone asked to cancel it; `holder` is whom to tell."""

    status: RunStatus
    holder: Holder | None = None
    moved: Moved = field(default_factory=Moved)


# With no request before, the reason is written; the first one stands.
_ASK: Final = f"""
UPDATE run_state s
SET cancel_requested = true, cancel_reason = CASE WHEN cancel_requested THEN cancel_reason ELSE $3 END
WHERE s.run_id = $1 AND s.tenant = $2 AND s.end_time IS NULL AND s.undoing IS NULL
RETURNING {COLUMNS}
"""  # noqa: S608 - a constant of ours

_STATUS: Final = "SELECT status FROM run_state WHERE run_id = $1 AND tenant = $2"

_HOLDER: Final = """
SELECT l.session_id, r.address, l.epoch
FROM lease l JOIN runner_session r ON r.session_id = l.session_id WHERE l.run_id = $1
"""


async def cancel(db: Database, tenant: str, run_id: UUID, reason: str = "") -> Cancelled:
    """Ask a run to stop.

    Queued and parked runs end CANCELLED here, or go to the queue to have their steps undone. A leased one is
    marked: every acknowledgement of its commits says so, and the caller tells its runner (`holder`).
    Repeatable; a run that has ended, or is being undone, is left as it is. Raises `RunNotFound`. Locks the
    tenant, then the run.
    """

    async def once() -> Cancelled:
        async with db.transaction() as connection:
            await lock_tenants(connection, [tenant])
            return await cancel_within(connection, tenant, run_id, reason)

    return await db.retrying(once)


async def cancel_within(connection: Connection, tenant: str, run_id: UUID, reason: str) -> Cancelled:
    """Ask a run to stop, as `cancel`, in the caller's transaction, which has locked the tenant."""
    row = await connection.fetchrow(_ASK, run_id, tenant, reason)
    if row is None:
        status = await connection.fetchval(_STATUS, run_id, tenant)
        if status is None:
            raise RunNotFound("There is no such run.", facts={"run_id": str(run_id)})
        return Cancelled(RunStatus(status))
    run = standing(row)
    assert run.status not in ENDED, "an ended run has an end time"
    if run.status in LEASED:
        holder = await connection.fetchrow(_HOLDER, run_id)
        return Cancelled(run.status, holder and Holder(**dict(holder)))
    moved = await end(connection, [Ending(run, RunStatus.CANCELLED, cancelled(run))])
    return Cancelled(RunStatus.CANCELLED if moved.ended else RunStatus.QUEUED, moved=moved)
