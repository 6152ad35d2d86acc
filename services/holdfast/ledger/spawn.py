"""Starting a child: admitted and lent to in one transaction, under the lease of the run that starts it.

    its parent's lease and budget (tenant, run locked) ──▶ admission ──▶ the loan, set aside

The child waits in the queue as every run does. A call that is repeated finds it by its idempotency key, and
nothing is lent twice.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import (
    BudgetExceeded,
    Fenced,
    InvalidField,
    RunNotFound,
    TooManyChildren,
    Violation,
)
from holdfast.ledger.admission import Placements, admit_within
from holdfast.ledger.domain.budget import Limits, Usage
from holdfast.ledger.domain.child import DEEPEST, MOST, CannotLend, Loan, lend
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.values import Admitted, Invocation, Refused, limits_of


class OnParentEnd(IntEnum):
    """What becomes of a child that outlives its parent: the numbers of `holdfast.v1.OnParentEnd`."""

    CANCEL = 1
    CONTINUE = 2


@dataclass(frozen=True, slots=True)
class Parent:
    """The run that starts a child, under which of its leases, and what becomes of the child without it."""

    run_id: UUID
    epoch: int
    on_parent_end: OnParentEnd = OnParentEnd.CANCEL


@dataclass(frozen=True, slots=True)
class Spawned:
    """The child, and the epoch of its parent under which it was started: now, or by an earlier call."""

    admitted: Admitted
    epoch: int


_PARENT: Final = """
SELECT s.status, s.epoch, s.ordering_key, s.depth, s.children, s.deadline_ms, s.max_steps, s.max_tools,
       s.max_tokens, s.max_context, s.steps, s.tools, s.tokens, s.context, s.lent_steps, s.lent_tools,
       s.lent_tokens, s.deadline_time, t.deadline_ms AS default_ms,
       floor(1000 * extract(epoch FROM s.deadline_time - clock_timestamp()))::bigint AS remaining_ms
FROM run_state s JOIN tenant t ON t.tenant = s.tenant
WHERE s.run_id = $1 AND s.tenant = $2 FOR NO KEY UPDATE OF s
"""

_IS_CHILD: Final = """
SELECT EXISTS (SELECT FROM run_state WHERE run_id = $1 AND tenant = $2 AND parent_run_id = $3)
"""

_KNOWN: Final = """
SELECT s.parent_run_id, s.parent_epoch
FROM idempotency i JOIN run_state s ON s.run_id = i.run_id
WHERE i.tenant = $1 AND i.idempotency_key = $2
"""

# The child's rows are this transaction's own, and nobody has seen them yet.
# least() passes over NULL.
_LEND: Final = """
WITH born AS (
    UPDATE run_state
    SET parent_run_id = $2, parent_epoch = $3, depth = $4, deadline_time = least(deadline_time, $10)
    WHERE run_id = $1
), timed AS (
    UPDATE timer SET due_time = least(due_time, $10) WHERE run_id = $1 AND kind = 1
), lent AS (
    UPDATE run_state SET children = children + 1, lent_steps = lent_steps + $7, lent_tools = lent_tools + $8,
                         lent_tokens = lent_tokens + $9
    WHERE run_id = $2
)
INSERT INTO child (run_id, tenant, parent_run_id, lender, on_parent_end, lent_steps, lent_tools, lent_tokens)
VALUES ($1, $5, $2, $2, $6, $7, $8, $9)
"""


async def spawn(db: Database, child: Invocation, parent: Parent) -> Spawned:
    """Start a child of a run, or find the one that its idempotency key stands for.

    Repeatable, also under a later lease of the parent; a crash makes all of it or nothing. Limits at 0 take a
    share of what the parent has left. A child that is cancelled with its parent has no later deadline than
    that. Raises `RunNotFound`, `Fenced` unless the parent is held under this epoch, `BudgetExceeded` with the
    dimension, `TooManyChildren`, `InvalidField`, `IdempotencyKeyReused`, `RunIdTaken` and `QueueFull`. Locks
    the tenant, then the parent.
    """

    async def once() -> Spawned:
        async with db.transaction() as connection:
            await lock_tenants(connection, [child.tenant])
            return await _spawn(connection, child, parent)

    return await db.retrying(once)


async def demand_child(db: Database, tenant: str, run_id: UUID, parent: UUID) -> None:
    """Raise `RunNotFound` unless a run is a child of `parent`."""
    async with db.connection() as connection:
        found = await connection.fetchval(_IS_CHILD, run_id, tenant, parent)
    if not found:
        raise RunNotFound("There is no such run.", facts={"run_id": str(run_id)})


async def _spawn(connection: Connection, child: Invocation, parent: Parent) -> Spawned:
    row = await connection.fetchrow(_PARENT, parent.run_id, child.tenant)
    if row is None:
        raise RunNotFound("There is no such run.", facts={"run_id": str(parent.run_id)})
    if row["status"] != RunStatus.RUNNING or row["epoch"] != parent.epoch:
        raise Fenced(
            f"The lease of epoch {parent.epoch} has ended; start nothing more.",
            facts={"run_id": str(parent.run_id)},
        )
    known = await connection.fetchrow(_KNOWN, child.tenant, child.idempotency_key)
    if known is None:
        child = replace(child, limits=_limits(child, parent, row))
    elif known["parent_run_id"] != parent.run_id:
        wrong = Violation("idempotency_key", "stands for a run that is no child of this parent")
        raise InvalidField("The key is another run's.", violations=[wrong])
    (answer,) = await admit_within(connection, [child], Placements())
    if isinstance(answer, Refused):
        raise answer.fault
    if known is not None:
        return Spawned(answer, known["parent_epoch"])
    await connection.execute(
        _LEND,
        child.run_id,
        parent.run_id,
        parent.epoch,
        row["depth"] + 1,
        child.tenant,
        int(parent.on_parent_end),
        child.limits.max_steps,
        child.limits.max_tools,
        child.limits.max_tokens,
        row["deadline_time"] if parent.on_parent_end is OnParentEnd.CANCEL else None,
    )
    return Spawned(answer, parent.epoch)


def _limits(child: Invocation, parent: Parent, row: Any) -> Limits:
    """Return what the parent lends, or raise the Fault that refuses it."""
    facts = {"run_id": str(parent.run_id)}
    if row["depth"] >= DEEPEST:
        sentence = f"{DEEPEST} runs stand above this one: it can have no children."
        raise TooManyChildren(sentence, facts=facts | {"limit": "depth"})
    if row["children"] >= MOST:
        raise TooManyChildren(
            f"The run has started {MOST} children, which are the most.", facts=facts | {"limit": "children"}
        )
    if child.lane and child.lane == row["ordering_key"]:
        wrong = Violation(
            "ordering_key", "is the parent's, or its session's: the child would wait for its parent"
        )
        raise InvalidField("A child cannot wait for its parent to end.", violations=[wrong])
    asked = child.limits
    if parent.on_parent_end is OnParentEnd.CANCEL:
        wanted_ms = asked.deadline_ms or row["default_ms"]
        asked = asked._replace(deadline_ms=max(1, min(wanted_ms, row["remaining_ms"])))
    spent = Usage(row["steps"], row["tools"], row["tokens"], row["context"])
    lent = Loan(row["lent_steps"], row["lent_tools"], row["lent_tokens"])
    try:
        return lend(asked, limits_of(row), spent, lent)
    except CannotLend as refused:
        dimension = refused.dimension.name
        raise BudgetExceeded(
            str(refused), facts=facts | {"dimension": dimension}, quota=dimension
        ) from refused
