"""A child's end: what it was lent comes back to its parent, what it has spent is charged, a signal tells.

ended ──▶ its own loans pass to who lent to it ──▶ its loan is settled ──▶ its parent is sent its outcome
   └──▶ its children that go with it are asked to stop

In the transaction that ends the run, under the tenant's lock, whoever ends it. A child whose parent has ended
before is charged to that all the same, within what it was lent: the parent's row says what all of its work
has cost.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.child import Loan
from holdfast.ledger.domain.mailbox import CHILD
from holdfast.ledger.domain.status import ENDED, RunStatus
from holdfast.ledger.mailbox import OVERHEAD, fingerprint_of
from holdfast.ledger.park import wake

AT_ONCE: Final = 50
"""Ends that are read together: each may have a result of 1 MiB."""
WHY: Final = "The run that started it has ended."


@dataclass(frozen=True, slots=True)
class _Paid:
    """What of a loan comes back, and how many steps of it are spent."""

    back: Loan
    steps: int


@dataclass(slots=True)
class Told:
    """What the ends of children have brought: pools that got work, and runs that were sent a signal."""

    pools: list[str] = field(default_factory=list)
    mail: list[UUID] = field(default_factory=list)


# Without a lender are those that a person has started again: they spend what is their own.
_BORN: Final = """
SELECT s.run_id, s.parent_run_id, c.lender
FROM run_state s LEFT JOIN child c ON c.run_id = s.run_id
WHERE s.run_id = ANY($1::uuid[]) AND s.parent_run_id IS NOT NULL
"""

# In the order in which commits lock them, before they are settled all at once.
_LOCK: Final = """
SELECT FROM run_state WHERE run_id = ANY($1::uuid[]) ORDER BY run_id FOR NO KEY UPDATE
"""

# None of these runs has lent to another of them, so each sum is read as it stands. What an ended run still
# lends to those that go on without it is from now on lent by its own lender, to whom it owes as much. Steps
# with which a child has undone its own go beyond its loan: they are charged to nobody above it.
_SETTLE: Final = """
WITH loan AS (
    DELETE FROM child WHERE run_id = ANY($1::uuid[]) RETURNING *
), owed AS MATERIALIZED (
    SELECT l.*, least(s.steps, l.lent_steps - s.lent_steps) AS steps, s.tools, s.tokens,
           s.lent_steps AS on_steps, s.lent_tools AS on_tools, s.lent_tokens AS on_tokens
    FROM loan l CROSS JOIN LATERAL (SELECT * FROM run_state WHERE run_state.run_id = l.run_id LIMIT 1) s
), passed AS (
    UPDATE child c SET lender = o.lender FROM owed o WHERE c.lender = o.run_id
), emptied AS (
    UPDATE run_state SET lent_steps = 0, lent_tools = 0, lent_tokens = 0
    WHERE run_id = ANY(ARRAY(SELECT run_id FROM owed WHERE on_steps + on_tools + on_tokens > 0))
), paid AS (
    UPDATE run_state s
    SET steps = s.steps + d.steps, tools = s.tools + d.tools, tokens = s.tokens + d.tokens,
        lent_steps = s.lent_steps - d.lent_steps, lent_tools = s.lent_tools - d.lent_tools,
        lent_tokens = s.lent_tokens - d.lent_tokens
    FROM (
        SELECT lender, sum(steps)::bigint AS steps, sum(tools)::bigint AS tools,
               sum(tokens)::bigint AS tokens, sum(lent_steps - on_steps)::bigint AS lent_steps,
               sum(lent_tools - on_tools)::bigint AS lent_tools,
               sum(lent_tokens - on_tokens)::bigint AS lent_tokens
        FROM owed GROUP BY lender
    ) d
    WHERE s.run_id = d.lender
)
SELECT run_id, steps AS charged_steps, lent_steps - on_steps AS steps, lent_tools - on_tools AS tools,
       lent_tokens - on_tokens AS tokens
FROM owed
"""

_ENDS: Final = """
SELECT s.run_id, s.status, s.steps, s.tools, s.tokens, s.context,
       o.result, o.failure::text AS failure, coalesce(o.exhausted, 0) AS exhausted, u.parent_run_id
FROM unnest($1::uuid[], $2::uuid[]) AS u (run_id, parent_run_id)
JOIN run_state s ON s.run_id = u.run_id
LEFT JOIN run_outcome o ON o.run_id = u.run_id
ORDER BY u.parent_run_id, s.seq
"""

_PARENT: Final = "SELECT status, park_keys FROM run_state WHERE run_id = $1"

_ENDED_BELOW: Final = """
SELECT run_id FROM run_state
WHERE tenant = $1 AND parent_run_id = $2 AND end_time IS NOT NULL ORDER BY seq
"""

# This role may send no signals: see the function.
_PUT: Final = "SELECT tell_parent($1, $2, $3, $4, $5, $6)"

_STOP: Final = """
WITH left_behind AS MATERIALIZED (
    SELECT s.run_id FROM child c JOIN run_state s ON s.run_id = c.run_id
    WHERE c.parent_run_id = ANY($1::uuid[]) AND c.on_parent_end = 1
          AND s.end_time IS NULL AND s.undoing IS NULL
    ORDER BY s.run_id FOR NO KEY UPDATE OF s
)
UPDATE run_state
SET cancel_requested = true, cancel_reason = CASE WHEN cancel_requested THEN cancel_reason ELSE $2 END
WHERE run_id = ANY(ARRAY(SELECT run_id FROM left_behind))
"""


async def settle(connection: Connection, ended: Sequence[UUID]) -> Told:
    """Do what the ends of runs mean for those above and below them; the runs' outcomes are written already.

    Under their tenants' locks, after `release_leases`. Runs that are no children, and have none, are passed
    over. Children that are leased are told to stop by the heartbeats, the others end in the next
    `orphan.cancel_orphans`: what a run leaves behind does not make its own end longer.
    """
    told = Told()
    born = await connection.fetch(_BORN, list(ended))
    if born:
        above = {row[name] for row in born for name in ("parent_run_id", "lender")} - {None}
        await connection.execute(_LOCK, list(above))
        returned = await _pay_back(
            connection, {row["run_id"]: row["lender"] for row in born if row["lender"]}
        )
        await _tell_all(connection, [(row["run_id"], row["parent_run_id"]) for row in born], returned, told)
    await stop(connection, ended)
    return told


async def stop(connection: Connection, run_ids: Sequence[UUID], why: str = WHY) -> None:
    """Ask the children of runs to stop that go with them; those that have begun to undo their steps do."""
    await connection.execute(_STOP, list(run_ids), why)


async def tell_again(connection: Connection, tenant: str, run_id: UUID) -> None:
    """Tell a run that starts again how its children have ended: what it was told before went with its end.

    What its records hold already waits unread. Under the tenant's lock, with the run's row locked and the run
    not ended.
    """
    rows = await connection.fetch(_ENDED_BELOW, tenant, run_id)
    for at in range(0, len(rows), AT_ONCE):
        pairs = [(row["run_id"], run_id) for row in rows[at : at + AT_ONCE]]
        await _tell_all(connection, pairs, {}, Told())


async def _pay_back(connection: Connection, left: dict[UUID, UUID]) -> dict[UUID, _Paid]:
    """Settle loans, given by who has lent to which run; return what comes back of each."""
    returned: dict[UUID, _Paid] = {}
    while left:
        lenders = set(left.values())
        first = [run_id for run_id in left if run_id not in lenders]
        for row in await connection.fetch(_SETTLE, first):
            back = Loan(row["steps"], row["tools"], row["tokens"])
            returned[row["run_id"]] = _Paid(back, row["charged_steps"])
        for run_id in first:
            del left[run_id]
    return returned


async def _tell_all(
    connection: Connection, pairs: Sequence[tuple[UUID, UUID]], returned: Mapping[UUID, _Paid], told: Told
) -> None:
    """Send parents the ends of their children, given as (child, parent)."""
    rows = await connection.fetch(_ENDS, [child for child, _ in pairs], [parent for _, parent in pairs])
    for row in rows:
        await _tell(connection, row, returned.get(row["run_id"]), told)


async def _tell(connection: Connection, row: Any, paid: _Paid | None, told: Told) -> None:
    """Send a parent the end of its child; one that has ended, or is removed, hears nothing."""
    parent_id, child_id = row["parent_run_id"], row["run_id"]
    key = f"{CHILD}{child_id}"
    parent = await connection.fetchrow(_PARENT, parent_id)
    if parent is None or RunStatus(parent["status"]) in ENDED:
        return
    letter = _letter(row, paid)
    size = OVERHEAD + len(letter) + len(key)
    fingerprint = fingerprint_of(key, letter, urgent=False)
    # A child that a person has started again ends more than once.
    for signal_id in (key, f"{key}/{uuid.uuid4()}"):
        if await connection.fetchval(_PUT, parent_id, child_id, signal_id, fingerprint, letter, size):
            break
    if key in (parent["park_keys"] or ()):
        told.pools += await wake(connection, [parent_id])
    told.mail.append(parent_id)


def _letter(row: Any, paid: _Paid | None) -> bytes:
    """Write what a parent is told, as JSON; the result is JSON already.

    `paid` is what its loan came to, less what its own children go on using; without one nothing is charged.
    """
    usage = {name: row[name] for name in ("context", "steps", "tokens", "tools")}
    head = {
        "charged": {
            "steps": paid.steps if paid else 0,
            "tokens": usage["tokens"] if paid else 0,
            "tools": usage["tools"] if paid else 0,
        },
        "exhausted": Dimension(row["exhausted"]).name if row["exhausted"] else None,
        "failure": json.loads(row["failure"]) if row["failure"] else None,
    }
    tail = {
        "returned": asdict(paid.back if paid else Loan()),
        "run_id": str(row["run_id"]),
        "status": RunStatus(row["status"]).name,
        "usage": usage,
    }
    before, after = (json.dumps(part, ensure_ascii=False, sort_keys=True).encode() for part in (head, tail))
    return before[:-1] + b', "result": ' + (row["result"] or b"null") + b", " + after[1:]
