"""What time brings to gates: reminders, escalations, and the end of their patience."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import DestinationNotFound, InvalidField
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.approval_change import Changed, apply, tell
from holdfast.ledger.approval_record import ESCALATED, LOCK, gate_of, reasons_of
from holdfast.ledger.domain.approval import Brought, Gate, Origin, passes
from holdfast.ledger.release import lock_tenants_of

_log: Final = logger("approval")
_UNTOLD: Final = (InvalidField, DestinationNotFound)
"""Why an effect cannot be staged: its key or id is taken (an agent may have), or its destination is gone."""

_DUE: Final = """
SELECT approval_id, run_id FROM approval WHERE next_time <= now() ORDER BY next_time LIMIT $1
"""


async def fire(db: Database, *, limit: int = 64) -> tuple[int, list[Changed]]:
    """Bring what is due: reminders, escalations, timeouts. Once, however many processes look; never early.

    Returns how many gates were looked at, and what changed. Tenants are locked in order.
    """
    async with db.connection() as connection:
        due = await connection.fetch(_DUE, limit)
    if not due:
        return 0, []

    try:
        return len(due), await db.retrying(lambda: _bring(db, due))
    except _UNTOLD:  # one that cannot be told must not hold up the others
        return len(due), [changed for row in due for changed in await _bring_alone(db, row)]


async def _bring_alone(db: Database, row: Any) -> list[Changed]:
    """Bring what is due at one gate, and if nobody can be told of it bring it all the same."""
    try:
        return await db.retrying(lambda: _bring(db, [row]))
    except _UNTOLD as fault:
        _log.warning("approval told nobody", approval_id=str(row["approval_id"]), reason=fault.reason)
        return await db.retrying(lambda: _bring(db, [row], telling=False))


async def _bring(db: Database, due: Sequence[Any], *, telling: bool = True) -> list[Changed]:
    async with db.transaction() as connection:
        await lock_tenants_of(connection, [row["run_id"] for row in due])
        changed = []
        for row in await connection.fetch(LOCK, [row["approval_id"] for row in due]):
            kept = json.loads(row["gate"])
            brought, after = passes(gate_of(kept), (row["now"] - row["create_time"]).total_seconds())
            if brought:
                reasons = reasons_of(kept)
                changed.append(await _pass(connection, row, after, brought, reasons, telling=telling))
        return changed


async def _pass(
    connection: Connection,
    row: Any,
    after: Gate,
    brought: Sequence[tuple[Brought, int]],
    reasons: list[tuple[str, datetime]],
    *,
    telling: bool,
) -> Changed:
    """Write down what time has brought, and tell who is to be told."""
    policy = after.policy
    entries: list[tuple[UUID, int, str, dict[str, Any]]] = []
    told: list[tuple[str, str, dict[str, Any]]] = []
    for what, number in brought:
        if what is Brought.ESCALATION:
            step = policy.escalation[number - 1]
            entries.append((row["approval_id"], ESCALATED, "", {"level": number}))
            told.append(
                (step.destination, f"escalation#{number}", {"level": number, "message": step.message})
            )
        elif what is Brought.REMINDER and policy.reminders is not None:
            told.append((policy.reminders.destination, f"reminder#{number}", {"number": number}))
        elif what is Brought.TIMEOUT:
            told.append((policy.admin_destination, "timeout", {"status": after.status.name}))
    late = brought[-1][0] is Brought.TIMEOUT
    why = "Nobody had decided when the time was over." if late else "Those asked now had approved before."
    origin = Origin.TIMEOUT if late else Origin.VOTES
    changed = await apply(connection, row, after, reasons, entries, origin=origin, reason=why)
    changed.destinations = await tell(connection, row, told if telling else [])
    return changed
