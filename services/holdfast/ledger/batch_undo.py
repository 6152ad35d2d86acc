"""What was applied is undone, the newest first: an effect by another effect, a follow-up run by another run.

A follow-up run that has not ended is asked to stop if that leaves nothing half done: it was never begun, or
its steps are undone when it is cancelled. Others arrive, and are undone then. Under the locks of
`batch_deed`, and by deeds of its kind: an item has one undo, ever.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.batch_deed import (
    BESIDE,
    LENGTH,
    MOST_BYTES,
    OF_ITEM,
    UNDOES,
    WHICH,
    Given,
    admit,
    fail,
    given_of,
    record,
    stage,
)
from holdfast.ledger.domain.batch import ItemStatus
from holdfast.ledger.values import Failure, Invocation

Undo = Callable[[Given], Invocation]
"""Makes the run that undoes what a follow-up run did to an item."""

# $5 is where the walk has come, $6 how many. An item that already has an undo is being undone, or was. A run
# that is kept no longer has no result.
APPLIED: Final = f"""
SELECT * FROM (
    SELECT {OF_ITEM}, i.seq, i.deed, i.by_run, u.result,
           sum({LENGTH} + coalesce(octet_length(u.result), 0))
               OVER (ORDER BY i.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM (
        SELECT i.*, d.seq, d.id AS deed, d.by_run FROM batch_deed d
        CROSS JOIN LATERAL (
            SELECT * FROM batch_item i WHERE i.batch_id = $1 AND i.index = d.index LIMIT 1
        ) i
        WHERE d.batch_id = $1 AND d.purpose = 1 AND ($5::bigint IS NULL OR d.seq < $5) AND i.status = 8
              AND NOT EXISTS (SELECT FROM batch_deed b
                              WHERE b.batch_id = $1 AND b.purpose = 2 AND b.index = d.index)
              AND {WHICH}
        ORDER BY d.seq DESC LIMIT $6
    ) i {BESIDE}
    LEFT JOIN LATERAL (
        SELECT result FROM run_outcome u WHERE i.by_run AND u.run_id = i.deed LIMIT 1
    ) u ON true
) s WHERE s.before IS NULL OR s.before < {MOST_BYTES} ORDER BY s.seq DESC
"""  # noqa: S608 - composed of our own constants
_UNDOING: Final = "UPDATE batch SET undoing = undoing + $2 WHERE batch_id = $1"

# Bit 2 of undo_on is UndoOn.CANCEL. Those that are leased are told by the heartbeats, the others end in the
# next `orphan.cancel_orphans`.
STOP_FOLLOW_UPS: Final = f"""
WITH flying AS MATERIALIZED (
    SELECT s.run_id FROM (
        SELECT * FROM batch_item i WHERE i.batch_id = $1 AND i.status = 7 AND {WHICH}
    ) i
    CROSS JOIN LATERAL (
        SELECT * FROM batch_deed d
        WHERE d.batch_id = $1 AND d.purpose = 1 AND d.index = i.index AND d.by_run LIMIT 1
    ) d
    CROSS JOIN LATERAL (
        SELECT * FROM run_state s
        WHERE s.run_id = d.id AND s.end_time IS NULL LIMIT 1
    ) s
), locked AS MATERIALIZED (
    SELECT run_id FROM run_state
    WHERE run_id = ANY(ARRAY(SELECT run_id FROM flying)) AND end_time IS NULL AND undoing IS NULL
          AND NOT cancel_requested AND (undo_on & 2 = 2 OR status = 1 AND attempt = 0)
    ORDER BY run_id FOR NO KEY UPDATE
)
UPDATE run_state SET cancel_requested = true, cancel_reason = $5
WHERE run_id = ANY(ARRAY(SELECT run_id FROM locked))
"""  # noqa: S608 - composed of our own constants


async def applied(
    connection: Connection, batch: Any, which: tuple[str, float, list[str]], limit: int
) -> tuple[list[Given], int]:
    """Read applied items, the newest first from where the walk is, and the place of the last."""
    rows = await connection.fetch(APPLIED, batch["batch_id"], *which, batch["undo_before"], limit)
    found = [
        given_of(batch, row, follow_up_run_id=row["deed"] if row["by_run"] else None, result=row["result"])
        for row in rows
    ]
    return found, rows[-1]["seq"] if rows else 0


async def undo(
    connection: Connection, batch: Any, given: Sequence[Given], run: Undo | None
) -> tuple[int, list[str]]:
    """Give applied items their undo; return how many have one, or cannot be undone, and pools that got work.

    With a full queue some get none now, and are found again. `run` undoes follow-up runs; None: nothing does.
    """
    destination = batch["undo_destination"]
    runs = [each for each in given if each.follow_up_run_id is not None]
    sent = [each for each in given if each.follow_up_run_id is None]
    failed: dict[int, Failure] = {}
    pools: list[str] = []
    effects: dict[int, UUID] = {}
    started: dict[int, UUID] = {}
    if destination:
        effects, failed = await stage(connection, sent, destination, UNDOES)
    else:
        failed |= _not_undoable(sent, "The batch was applied without an undo_destination.")
    if run is not None and runs:
        started, refused, pools = await admit(connection, runs, run, UNDOES)
        failed |= refused
    elif runs:
        failed |= _not_undoable(runs, "A run applied it, and the batch was applied without an undo for it.")
    await record(connection, batch["batch_id"], effects, UNDOES, by_run=False)
    await record(connection, batch["batch_id"], started, UNDOES, by_run=True)
    await count_undoing(connection, batch["batch_id"], len(effects) + len(started))
    await fail(connection, batch["batch_id"], failed, ItemStatus.ROLLBACK_FAILED)
    return len(effects) + len(started) + len(failed), pools


def _not_undoable(given: Sequence[Given], why: str) -> dict[int, Failure]:
    return {each.index: Failure("NOT_UNDOABLE", why) for each in given}


async def count_undoing(connection: Connection, batch_id: UUID, more: int) -> None:
    """Note that so many more undos are on their way."""
    await connection.execute(_UNDOING, batch_id, more)


async def stop_follow_ups(
    connection: Connection, batch_id: UUID, which: tuple[str, float, list[str]], reason: str
) -> None:
    """Ask the follow-up runs that have not ended to stop, if that leaves nothing half done. Repeatable."""
    await connection.execute(STOP_FOLLOW_UPS, batch_id, *which, reason)
