"""Apply and roll back, as people ask: the batch is moved, and the Invoker's steps do the work."""

import json
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import DestinationNotFound, InvalidField, Violation
from holdfast.ledger import batch, batch_undo, batch_view
from holdfast.ledger.batch_deed import WHICH, filter_arguments
from holdfast.ledger.batch_lock import hold
from holdfast.ledger.batch_view import BatchView, ItemFilter
from holdfast.ledger.domain.batch import BATCH_MOVES, BatchStatus

B = BatchStatus


@dataclass(frozen=True, slots=True)
class Target:
    """Where accepted outputs go; `stored` is the whole of it, a follow-up run has no destination."""

    stored: bytes
    destination: str = ""
    undo_destination: str = ""


_DESTINATION: Final = "SELECT EXISTS (SELECT FROM destination WHERE tenant = $1 AND name = $2)"
_ACCEPTED: Final = "SELECT coalesce(sum(n), 0)::bigint FROM batch_count WHERE batch_id = $1 AND status = 4"
_BEGIN: Final = """
UPDATE batch
SET apply_target = $2, apply_destination = $3, undo_destination = $4, apply_per_second = $5,
    applied_once = true, phase_time = clock_timestamp(), apply_clock = clock_timestamp()
WHERE batch_id = $1 RETURNING *
"""
_BEGIN_UNDO: Final = """
UPDATE batch
SET undo_reason = $2, undo_filter = $3::text::jsonb, undo_before = NULL, undo_again = -1,
    phase_time = clock_timestamp()
WHERE batch_id = $1 RETURNING *
"""

COUNT_APPLIED: Final = f"SELECT count(*) FROM batch_item i WHERE i.batch_id = $1 AND i.status = 8 AND {WHICH}"  # noqa: S608


async def check_destinations(connection: Connection, tenant: str, *names: str) -> None:
    """Raise `DestinationNotFound` for a name the tenant does not have; empty names are passed over."""
    for name in filter(None, names):
        if not await connection.fetchval(_DESTINATION, tenant, name):
            raise DestinationNotFound(
                f"There is no destination {name!r}; make it with PutDestination.",
                facts={"destination": name},
            )


async def apply(
    db: Database,
    tenant: str,
    batch_id: UUID,
    target: Target | None,
    *,
    per_second: float = 0.0,
    dry_run: bool = False,
) -> tuple[BatchView, int]:
    """Let accepted outputs be applied; return the batch and how many are accepted now.

    Repeatable: the target of the first call stays, and what was applied is not applied again. Raises
    `BatchNotFound`, `BatchNotReady`, `DestinationNotFound`, and `InvalidField` if no target is known.
    """

    async def once() -> tuple[BatchView, int]:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            status = B(row["status"])
            if status not in (B.IN_REVIEW, B.APPLYING, B.APPLIED):
                raise batch.refused(batch_view.view(row), "cannot be applied")
            count: int = await connection.fetchval(_ACCEPTED, batch_id)
            if dry_run or status is B.APPLYING:
                return batch_view.view(row), count
            return await _begin(connection, row, target, per_second), count

    return await db.retrying(once)


async def _begin(connection: Connection, row: Any, target: Target | None, per_second: float) -> BatchView:
    known = Target(row["apply_target"] or b"", row["apply_destination"], row["undo_destination"])
    chosen = known if target is None or row["applied_once"] else target
    if not chosen.stored:
        wrong = Violation("target", "must be given: the spec says no target")
        raise InvalidField("target must be given: the spec says no target", violations=[wrong])
    await check_destinations(connection, row["tenant"], chosen.destination, chosen.undo_destination)
    row = await connection.fetchrow(
        _BEGIN, row["batch_id"], chosen.stored, chosen.destination, chosen.undo_destination, per_second
    )
    return await batch.move(connection, row, B.APPLYING)


async def begin_by_policy(connection: Connection, row: Any) -> None:
    """Begin to apply to the target of the spec, under the tenant's lock."""
    await _begin(connection, row, None, row["apply_per_second"])


async def rollback(
    db: Database, tenant: str, batch_id: UUID, reason: str, which: ItemFilter, *, dry_run: bool = False
) -> tuple[BatchView, int]:
    """Let what was applied be undone, the newest first; return the batch and how many are applied now.

    Repeatable: what was undone is not undone again. Of a batch still applying, nothing further is applied;
    what is on its way arrives, and is undone then, or is a follow-up run that is asked to stop. Raises
    `BatchNotFound`, `BatchNotReady`.
    """

    async def once() -> tuple[BatchView, int]:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            status = B(row["status"])
            paused_while = B(row["resume_status"]) if status is B.PAUSED else None
            from_pause = paused_while in (B.APPLYING, B.ROLLING_BACK)
            if not row["applied_once"] or not (from_pause or status is B.ROLLING_BACK or _leads_back(status)):
                raise batch.refused(batch_view.view(row), "has nothing that could be rolled back")
            count: int = await connection.fetchval(COUNT_APPLIED, batch_id, *filter_arguments(which))
            if dry_run or status is B.ROLLING_BACK:
                return batch_view.view(row), count
            stored = json.dumps(
                {"label": which.label, "max_confidence": which.max_confidence, "keys": list(which.keys)}
            )
            row = await connection.fetchrow(_BEGIN_UNDO, batch_id, reason, stored)
            await batch_undo.stop_follow_ups(connection, batch_id, filter_arguments(which), reason)
            return await batch.move(connection, row, B.ROLLING_BACK), count

    return await db.retrying(once)


def stored_filter(row: Any) -> ItemFilter:
    """Return which items a batch's rollback means."""
    found = json.loads(row["undo_filter"] or "{}")
    return ItemFilter(
        label=found.get("label", ""),
        max_confidence=found.get("max_confidence", 0.0),
        keys=tuple(found.get("keys", ())),
    )


def _leads_back(status: BatchStatus) -> bool:
    return B.ROLLING_BACK in BATCH_MOVES[status] and status is not B.PAUSED
