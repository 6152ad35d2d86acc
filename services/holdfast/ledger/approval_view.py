"""Reading gates and the audit log; a call sees its tenant's own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import ApprovalNotFound
from holdfast.ledger.approval_record import gate_of, reasons_of
from holdfast.ledger.domain.approval import ApprovalStatus, Gate


@dataclass(frozen=True, slots=True)
class StoredGate:
    """A gate as it stands; `payload` is JSON, `reasons` what each voter wrote, and when."""

    approval_id: UUID
    run_id: UUID
    step: str
    intent: str
    title: str
    labels: dict[str, str]
    payload: bytes
    gate: Gate
    reasons: list[tuple[str, datetime]]
    decision: dict[str, Any] | None
    change: int
    create_time: datetime
    update_time: datetime
    deadline_time: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """An entry of the audit log."""

    sequence: int
    approval_id: UUID
    action: int
    user: str
    content: bytes
    previous_hash: bytes
    hash: bytes
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """Which gates; what is left empty does not filter."""

    statuses: Sequence[ApprovalStatus] = ()
    run_id: UUID | None = None
    intent: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


_COLUMNS: Final = """
SELECT approval_id, run_id, step, intent, title, labels, payload, gate, decision, change, create_time,
       update_time, deadline_time
FROM approval
"""
_GET: Final = f"{_COLUMNS} WHERE tenant = $1 AND approval_id = $2"
_OF_RUN: Final = f"{_COLUMNS} WHERE run_id = $1 AND approval_id = $2"
_WHERE: Final = """
WHERE tenant = $1 AND (cardinality($2::smallint[]) = 0 OR status = ANY($2))
      AND ($3::uuid IS NULL OR run_id = $3) AND ($4 = '' OR intent = $4)
      AND ($5::jsonb IS NULL OR labels @> $5)
"""
_BY_DEADLINE: Final = f"""{_COLUMNS}{_WHERE}
      AND ($6::timestamptz IS NULL OR (deadline_time, approval_id) > ($6, $7::uuid))
ORDER BY deadline_time, approval_id LIMIT $8
"""
_NEWEST: Final = f"""{_COLUMNS}{_WHERE}
      AND ($6::timestamptz IS NULL OR (create_time, approval_id) < ($6, $7::uuid))
ORDER BY create_time DESC, approval_id DESC LIMIT $8
"""
_CHANGES: Final = f"{_COLUMNS} WHERE tenant = $1 AND change > $2 ORDER BY change LIMIT $3"
_LAST: Final = "SELECT coalesce(max(change), 0) FROM approval WHERE tenant = $1"
_LASTS: Final = """
SELECT u.tenant, l.change FROM unnest($1::text[]) AS u (tenant) CROSS JOIN LATERAL (
    SELECT change FROM approval a WHERE a.tenant = u.tenant ORDER BY change DESC LIMIT 1
) l
"""
_AUDIT: Final = """
SELECT sequence, approval_id, action, user_id, content, previous_hash, hash, create_time
FROM approval_audit WHERE approval_id = ANY($1::uuid[]) ORDER BY sequence
"""


async def get(connection: Connection, tenant: str, approval_id: UUID) -> StoredGate:
    """Read a gate. Raises `ApprovalNotFound`, also for another tenant's."""
    row = await connection.fetchrow(_GET, tenant, approval_id)
    if row is None:
        raise ApprovalNotFound("There is no such approval.", facts={"approval_id": str(approval_id)})
    return _stored(row)


async def of_run(connection: Connection, run_id: UUID, approval_id: UUID) -> StoredGate:
    """Read a gate that a run has opened."""
    return _stored(await connection.fetchrow(_OF_RUN, run_id, approval_id))


async def page(
    connection: Connection,
    tenant: str,
    wanted: Filter,
    *,
    newest: bool,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[StoredGate]:
    """Read gates by time left, or the newest first; `after` is the time and id of the last one seen."""
    rows = await connection.fetch(
        _NEWEST if newest else _BY_DEADLINE,
        tenant,
        [int(status) for status in wanted.statuses],
        wanted.run_id,
        wanted.intent,
        json.dumps(dict(wanted.labels)) if wanted.labels else None,
        *(after or (None, None)),
        limit,
    )
    return [_stored(row) for row in rows]


async def last_change(connection: Connection, tenant: str) -> int:
    """Return the number of the tenant's last change of an approval; 0 if there was none."""
    return int(await connection.fetchval(_LAST, tenant))


async def last_changes(connection: Connection, tenants: Sequence[str]) -> dict[str, int]:
    """Return the number of the last change of each of these tenants that has had one."""
    return {row["tenant"]: row["change"] for row in await connection.fetch(_LASTS, list(tenants))}


async def changes(connection: Connection, tenant: str, after: int, limit: int) -> list[StoredGate]:
    """Read the approvals that changed after a change, in order of their last one.

    None is missed: changes are numbered under the tenant's lock, so a smaller number is never seen later.
    """
    return [_stored(row) for row in await connection.fetch(_CHANGES, tenant, after, limit)]


async def audit(connection: Connection, approval_ids: Sequence[UUID]) -> list[Link]:
    """Read the entries of the audit log about some gates, in order."""
    return [Link(*row.values()) for row in await connection.fetch(_AUDIT, list(approval_ids))]


def _stored(row: Any) -> StoredGate:
    kept = json.loads(row["gate"])
    return StoredGate(
        approval_id=row["approval_id"],
        run_id=row["run_id"],
        step=row["step"],
        intent=row["intent"],
        title=row["title"],
        labels=json.loads(row["labels"]) if row["labels"] else {},
        payload=row["payload"],
        gate=gate_of(kept),
        reasons=reasons_of(kept),
        decision=json.loads(row["decision"]) if row["decision"] else None,
        change=row["change"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        deadline_time=row["deadline_time"],
    )
