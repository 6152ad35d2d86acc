"""A run as rows tell it: the columns a reader asks for, and the view made of them."""

import json
from typing import Any, Final

from holdfast.ledger.domain.budget import Dimension, Usage
from holdfast.ledger.domain.status import ENDED, STATUSES, RunStatus
from holdfast.ledger.values import Failure, Outcome, RunView, limits_of

COLUMNS: Final = """
    r.run_id, r.seq, r.tenant, r.user_id, r.intent, r.idempotency_key, r.correlation_id,
    r.session_id, r.ordering_key, r.priority, r.labels::text AS labels, s.agent_version, s.status, s.attempt,
    s.max_attempts, s.epoch, s.deadline_ms, s.max_steps, s.max_tools, s.max_tokens, s.max_context, s.steps,
    s.tools, s.tokens, s.context, s.last_sequence, s.cancel_requested, s.create_time, s.start_time,
    s.end_time, s.deadline_time, s.handed_off, r.forked_from, r.forked_position,
    s.parent_run_id, s.lent_steps, s.lent_tools, s.lent_tokens, s.undoing::text AS undoing,
    s.paused->>'reason' AS paused, s.pool,
    CASE WHEN s.handed_off THEN 2 ELSE r.shape END AS shape,
    s.last_failure::text AS last_failure, o.failure::text AS failure,
    o.exhausted, clock_timestamp() AS now
"""
"""Nobody waits for a run in the background: its shape is WORKER.

Of `run r JOIN run_state s LEFT JOIN run_outcome o`; a reader of one run adds r.envelope and o.result."""


def run_view(row: Any) -> RunView:
    """Make a view of a row of `COLUMNS`."""
    status = STATUSES[row["status"]]
    return RunView(
        run_id=row["run_id"],
        seq=row["seq"],
        tenant=row["tenant"],
        user=row["user_id"],
        intent=row["intent"],
        shape=row["shape"],
        idempotency_key=row["idempotency_key"],
        correlation_id=row["correlation_id"],
        session_id=row["session_id"],
        ordering_key=row["ordering_key"],
        priority=row["priority"],
        labels=json.loads(row["labels"]) if row["labels"] else {},
        agent_version=row["agent_version"],
        status=status,
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        epoch=row["epoch"],
        limits=limits_of(row),
        usage=Usage(row["steps"], row["tools"], row["tokens"], row["context"]),
        last_sequence=row["last_sequence"],
        cancel_requested=row["cancel_requested"] and status not in ENDED,
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        deadline_time=row["deadline_time"],
        now=row["now"],
        last_failure=Failure.from_json(row["last_failure"]),
        outcome=_outcome(row, status) if status in ENDED else None,
        envelope=row.get("envelope"),
        handed_off=row["handed_off"],
        forked_from=row["forked_from"] and (row["forked_from"], row["forked_position"]),
        parent_run_id=row["parent_run_id"],
        lent=Usage(row["lent_steps"], row["lent_tools"], row["lent_tokens"]),
        undoing=Failure.from_json(row["undoing"]),
        paused=row["paused"],
        pool=row["pool"],
    )


def _outcome(row: Any, status: RunStatus) -> Outcome:
    return Outcome(
        status=status,
        result=row.get("result"),
        failure=Failure.from_json(row["failure"]),
        exhausted=Dimension(row["exhausted"] or 0),
    )
