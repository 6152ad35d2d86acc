"""A run moves to the background, once: its own commit says when, its caller's envelope under which budget.

allowed (a row) ──(a commit of its runner)──▶ handed off: limits, deadline and timer are new
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import InvalidField, Violation
from holdfast.ledger.values import Invocation

_ALLOW: Final = """
INSERT INTO handoff (run_id, deadline_ms, max_steps, max_tools, max_tokens, max_context)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
"""

# The row goes, so nobody comes twice. The statement before has locked the run and passed its fence. In the
# background it is a WORKER, and kept as one.
_MOVE: Final = """
WITH allowed AS (
    DELETE FROM handoff WHERE run_id = ANY($1::uuid[]) RETURNING *
), changed AS (
    UPDATE run_state s
    SET handed_off = true, shape = 2,
        deadline_ms = coalesce(nullif(a.deadline_ms, 0), s.deadline_ms),
        deadline_time = clock_timestamp()
            + make_interval(secs => coalesce(nullif(a.deadline_ms, 0), s.deadline_ms) / 1e3),
        max_steps = coalesce(nullif(a.max_steps, 0), s.max_steps),
        max_tools = coalesce(nullif(a.max_tools, 0), s.max_tools),
        max_tokens = coalesce(nullif(a.max_tokens, 0), s.max_tokens),
        max_context = coalesce(nullif(a.max_context, 0), s.max_context)
    FROM allowed a WHERE s.run_id = a.run_id AND s.undoing IS NULL
    RETURNING s.run_id, s.deadline_time
), timed AS (
    UPDATE timer t SET due_time = c.deadline_time FROM changed c WHERE t.run_id = c.run_id AND t.kind = 1
)
SELECT run_id FROM changed
"""


async def allow(connection: Connection, invocations: Sequence[Invocation]) -> None:
    """Note the budgets that new runs have in the background, in the transaction that admits them."""
    allowed = [(i.run_id, i.handoff) for i in invocations if i.handoff is not None]
    if allowed:
        await connection.execute(
            _ALLOW,
            [run_id for run_id, _ in allowed],
            [limits.deadline_ms for _, limits in allowed],
            [limits.max_steps for _, limits in allowed],
            [limits.max_tools for _, limits in allowed],
            [limits.max_tokens for _, limits in allowed],
            [limits.max_context for _, limits in allowed],
        )


async def move(connection: Connection, run_ids: Sequence[UUID]) -> None:
    """Put runs under their other budget, the deadline counted from now, within the commits that say so.

    Under the tenants' locks, for it moves timers, and with the runs' rows locked. Raises `InvalidField`, with
    the `run_id` of the first, for a run that may not move or has done so.
    """
    moved = {row["run_id"] for row in await connection.fetch(_MOVE, list(run_ids))}
    for run_id in run_ids:
        if run_id not in moved:
            wrong = Violation("handoff", "must not be set: the run may not be handed off, or has been")
            raise InvalidField("The commit is malformed.", violations=[wrong], facts={"run_id": str(run_id)})
