"""What could not be applied or undone is tried again: under the deed it has, so still once; all in chunks."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger import batch, batch_deed, batch_failed, batch_undo, batch_view
from holdfast.ledger.batch_deed import WHICH, filter_arguments
from holdfast.ledger.batch_lock import hold
from holdfast.ledger.batch_view import BatchView, ItemFilter
from holdfast.ledger.domain.batch import BatchStatus, ItemStatus

AT_ONCE: Final = 2000
B = BatchStatus

# $5 is where they stand, $6 the purpose of the deed that has failed, $8 the index to go on after.
FAILED: Final = f"""
SELECT i.index, d.id, d.by_run FROM (
    SELECT * FROM batch_item i
    WHERE i.batch_id = $1 AND i.status = $5 AND i.index > $8 AND {WHICH}
          AND ($7 = '' OR i.failure ->> 'reason' = $7)
    ORDER BY i.index LIMIT $9
) i
LEFT JOIN LATERAL (
    SELECT * FROM batch_deed d WHERE d.batch_id = $1 AND d.purpose = $6 AND d.index = i.index LIMIT 1
) d ON true
ORDER BY i.index
"""  # noqa: S608 - a constant of ours
_SEND_AGAIN: Final = "SELECT batch_send_again($1::uuid[])"


def applies(view: BatchView) -> bool:
    """Tell whether what is tried again of a batch is to apply, not to run."""
    return view.status in (B.APPLYING, B.APPLIED) or view.resume_status is B.APPLYING


async def apply_again(
    db: Database, tenant: str, batch_id: UUID, which: ItemFilter, *, dry_run: bool = False
) -> tuple[BatchView, int]:
    """Send dead-lettered effects again, and let items that never got one be applied; return how many.

    Effects that were given up and runs that failed are left alone, though a dry run counts them. Repeatable;
    each chunk is a transaction. Raises `BatchNotFound`, `BatchNotReady`.
    """
    if dry_run:
        async with db.connection() as connection:
            found = await batch_view.get(connection, tenant, batch_id)
            return found, await batch_failed.count(connection, batch_id, which, ItemStatus.APPLY_FAILED)
    count, after = 0, -1
    while True:
        view, moved, last = await _chunk(db, tenant, batch_id, which, after)
        count += moved
        if last is None:
            return view, count
        after = last


async def _chunk(
    db: Database, tenant: str, batch_id: UUID, which: ItemFilter, after: int
) -> tuple[BatchView, int, int | None]:
    async def once() -> tuple[BatchView, int, int | None]:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            view = batch_view.view(row)
            if not applies(view):
                raise batch.refused(view, "has no items that can be applied again")
            rows = await _failed(connection, batch_id, which, batch_deed.APPLIES, after=after, limit=AT_ONCE)
            again = await _send_again(connection, batch_id, rows, ItemStatus.APPLYING)
            anew = [each["index"] for each in rows if each["id"] is None]
            await batch_deed.move(connection, batch_id, anew, ItemStatus.ACCEPTED)
            if (again or anew) and view.status is B.APPLIED:
                view = await batch.move(connection, row, B.APPLYING)
            return view, again + len(anew), rows[-1]["index"] if len(rows) == AT_ONCE else None

    return await db.retrying(once)


async def undo_again(connection: Connection, row: Any, which: ItemFilter, limit: int) -> int | None:
    """Let a chunk of what could not be undone be tried again, under the locks of a batch that is rolled back.

    Returns the index to go on after; None after the last.
    """
    batch_id = row["batch_id"]
    rows = await _failed(connection, batch_id, which, batch_deed.UNDOES, after=row["undo_again"], limit=limit)
    await batch_undo.count_undoing(
        connection, batch_id, await _send_again(connection, batch_id, rows, ItemStatus.APPLIED)
    )
    anew = [each["index"] for each in rows if each["id"] is None]
    await batch_deed.move(connection, batch_id, anew, ItemStatus.APPLIED)
    return rows[-1]["index"] if len(rows) == limit else None


async def _failed(
    connection: Connection, batch_id: UUID, which: ItemFilter, purpose: int, *, after: int, limit: int
) -> Sequence[Any]:
    """Read items whose deed of that purpose has failed, or that never got one."""
    status = ItemStatus.APPLY_FAILED if purpose == batch_deed.APPLIES else ItemStatus.ROLLBACK_FAILED
    rows: Sequence[Any] = await connection.fetch(
        FAILED,
        batch_id,
        *filter_arguments(which),
        int(status),
        purpose,
        which.failure_reason,
        after,
        limit,
    )
    return rows


async def _send_again(connection: Connection, batch_id: UUID, rows: Sequence[Any], status: ItemStatus) -> int:
    ids = {each["id"]: each["index"] for each in rows if each["id"] is not None and not each["by_run"]}
    sent = await connection.fetch(_SEND_AGAIN, list(ids)) if ids else []
    await batch_deed.move(connection, batch_id, [ids[each[0]] for each in sent], status)
    return len(sent)
