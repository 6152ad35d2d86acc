"""Items of a batch that were skipped are tried again: all, or those that a filter names, chunk by chunk."""

from typing import Final
from uuid import UUID

from holdfast.kit.db import Database
from holdfast.ledger import batch, batch_failed, batch_view
from holdfast.ledger.batch_failed import MEANT
from holdfast.ledger.batch_lock import hold
from holdfast.ledger.batch_view import BatchView, ItemFilter
from holdfast.ledger.domain.batch import BatchStatus, ItemStatus

AT_ONCE: Final = 2000
_FROM: Final = frozenset({BatchStatus.RUNNING, BatchStatus.IN_REVIEW, BatchStatus.COMPLETED})
"""Where a batch may stand, or what it goes on with after a pause."""

# An item that is tried again begins anew: its tries so far no longer count.
_AGAIN: Final = f"""
WITH u AS MATERIALIZED (
    SELECT i.index, i.failure ->> 'reason' AS reason FROM batch_item i
    WHERE i.status = 6 AND i.index > $4 AND {MEANT} ORDER BY i.index LIMIT {AT_ONCE}
), moved AS (
    UPDATE batch_item i
    SET status = 1, forgiven = i.attempts, not_before = NULL, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), fewer AS (
    UPDATE batch_error r SET n = r.n - d.n
    FROM (SELECT reason, count(*) AS n FROM u GROUP BY reason) d
    WHERE r.batch_id = $1 AND r.reason = d.reason
), left_skipped AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 6
), counted AS (
    INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 1, count(*) FROM u
    ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
), eased AS (
    UPDATE batch SET forgiven_skipped = greatest(0, forgiven_skipped - (SELECT count(*) FROM u)),
                     forgiven_ended = greatest(0, forgiven_ended - (SELECT count(*) FROM u))
    WHERE batch_id = $1
)
SELECT count(*) AS n, coalesce(max(index), -1) AS last FROM u
"""  # noqa: S608 - a constant of ours


async def retry_items(
    db: Database, tenant: str, batch_id: UUID, which: ItemFilter, *, dry_run: bool = False
) -> tuple[BatchView, int]:
    """Put skipped items back to where they wait, and let the batch go on unless it is paused.

    Repeatable: an item that was put back is no longer skipped. Each chunk is a transaction; what a crash
    leaves undone, the next call does. Raises `BatchNotFound`, `BatchNotReady`.
    """
    if dry_run:
        async with db.connection() as connection:
            found = _retriable(await batch_view.get(connection, tenant, batch_id))
            return found, await batch_failed.count(connection, batch_id, which, ItemStatus.SKIPPED)
    count, after = 0, -1
    while True:
        view, moved, after = await _again(db, tenant, batch_id, which, after)
        count += moved
        if moved < AT_ONCE:
            return view, count


async def _again(
    db: Database, tenant: str, batch_id: UUID, which: ItemFilter, after: int
) -> tuple[BatchView, int, int]:
    async def once() -> tuple[BatchView, int, int]:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            view = _retriable(batch_view.view(row))
            done = await connection.fetchrow(_AGAIN, batch_id, which.failure_reason, list(which.keys), after)
            if done["n"] and view.status not in (BatchStatus.RUNNING, BatchStatus.PAUSED):
                view = await batch.move(connection, row, BatchStatus.RUNNING)
            return view, done["n"], done["last"]

    return await db.retrying(once)


def _retriable(view: BatchView) -> BatchView:
    """Raise `BatchNotReady` unless what is put back to where it waits would be run."""
    if (view.resume_status or view.status) not in _FROM:
        raise batch.refused(view, "cannot run items again")
    return view
