"""The phase in which a run's steps are undone: back in the queue, with limits of its own, and then it ends.

would end FAILED, CANCELLED, PARTIAL or DEAD_LETTERED, and has said that this calls for it
  └──▶ QUEUED ──(leased)──▶ COMPENSATING ──▶ COMPENSATED, or FAILED naming what is not undone
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import InvalidField, Violation
from holdfast.ledger import approval_end, child_end
from holdfast.ledger.values import Failure

# As many undos as it could have steps. Whoever asked to cancel it gets just that: it is on its way out.
_ENTER: Final = """
WITH entered AS (
    UPDATE run_state s
    SET undoing = u.cause::jsonb, attempt = 0, cancel_requested = false, cancel_reason = NULL,
        max_steps = s.steps + s.lent_steps + s.max_steps, deadline_ms = s.undo_within_ms,
        deadline_time = clock_timestamp() + make_interval(secs => s.undo_within_ms / 1e3)
    FROM unnest($1::uuid[], $2::text[]) AS u (run_id, cause)
    WHERE s.run_id = u.run_id AND s.undo_on > 0 AND s.undoing IS NULL
    RETURNING s.run_id, s.deadline_time, s.gates
), timed AS (
    INSERT INTO timer (run_id, kind, due_time) SELECT run_id, 1, deadline_time FROM entered
    ON CONFLICT (run_id, kind) DO UPDATE SET due_time = excluded.due_time
)
SELECT run_id, gates FROM entered
"""


async def enter(connection: Connection, runs: Sequence[tuple[UUID, Failure]]) -> None:
    """Begin the phase of runs, given with why, that go to the queue in this transaction.

    Closes their gates and asks the children that go with them to stop. Under the tenants' locks, with the
    runs' rows locked. Raises `InvalidField`, with the `run_id` of the first, for a run that has no step to
    undo or is in the phase already.
    """
    rows = await connection.fetch(
        _ENTER, [run_id for run_id, _ in runs], [cause.to_json() for _, cause in runs]
    )
    entered = {row["run_id"] for row in rows}
    for run_id, _ in runs:
        if run_id not in entered:
            wrong = Violation("compensate", "must not be set: nothing is to be undone, or it goes on already")
            raise InvalidField("The commit is malformed.", violations=[wrong], facts={"run_id": str(run_id)})
    await approval_end.close(connection, [row["run_id"] for row in rows if row["gates"]])
    await child_end.stop(connection, list(entered))
