"""What falls due: deadlines end runs, delays make them ready. Fired once, however many processes look.

What wakes parked runs is apart (`due_wake`): it may be much at once.

A run's own runner ends it at its deadline. The ledger steps in for a run that waits, at once, and for a run
whose runner has not managed to, after a grace.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.status import ENDED, LEASED, RunStatus
from holdfast.ledger.platform_move import COLUMNS, Ending, Moved, Standing, end, standing
from holdfast.ledger.release import lock_tenants_of
from holdfast.ledger.values import Failure, LeaseRef

GRACE_S: Final = 2.0
"""How long after its deadline a runner may still end its run."""

_DEADLINE: Final = 1
_DELAY: Final = 2
_WHERE: Final = {RunStatus.QUEUED: "before a runner took it", RunStatus.PARKED: "while it waited"}


@dataclass(slots=True)
class Fired:
    """What fell due: the runs moved, and the leases taken from runners that missed the deadline."""

    moved: Moved = field(default_factory=Moved)
    revoked: list[tuple[UUID, LeaseRef]] = field(default_factory=list)
    fired: int = 0


# A statement of its own, so now() is the present; the index takes no volatile clock.
_DUE: Final = """
SELECT DISTINCT run_id FROM (
    SELECT run_id FROM timer WHERE kind < 3 AND due_time <= now() ORDER BY due_time LIMIT $1
) t
"""

# Read again under the tenants' locks: another process may have been first.
_RUNS: Final = f"""
SELECT t.kind, l.session_id, l.epoch,
       s.deadline_time + make_interval(secs => $2) <= clock_timestamp() AS late,
       EXISTS (SELECT FROM blocked b WHERE b.tenant = s.tenant AND b.ordering_key = s.ordering_key
                                       AND b.seq = s.seq AND s.ordering_key <> '') AS behind,
       {COLUMNS}
FROM unnest($1::uuid[]) AS u (run_id)
JOIN timer t ON t.run_id = u.run_id AND t.kind < 3 AND t.due_time <= clock_timestamp()
JOIN run_state s ON s.run_id = t.run_id
LEFT JOIN lease l ON l.run_id = t.run_id
ORDER BY s.run_id, t.kind FOR UPDATE OF s
"""  # noqa: S608 - a constant of ours

_DROP: Final = """
DELETE FROM timer USING unnest($1::uuid[], $2::smallint[]) AS u (run_id, kind)
WHERE timer.run_id = u.run_id AND timer.kind = u.kind
"""

_POSTPONE: Final = """
UPDATE timer t SET due_time = s.deadline_time + make_interval(secs => $2)
FROM unnest($1::uuid[]) AS u (run_id) JOIN run_state s ON s.run_id = u.run_id
WHERE t.run_id = u.run_id AND t.kind = 1
"""

# The run is counted as queued already; only its place changes.
_READY: Final = """
WITH due AS MATERIALIZED (
    SELECT s.run_id, s.tenant, s.pool, s.rank, s.seq
    FROM unnest($1::uuid[]) AS u (run_id) JOIN run_state s ON s.run_id = u.run_id
), placed AS (
    INSERT INTO ready (pool, tenant, rank, seq, run_id) SELECT pool, tenant, rank, seq, run_id FROM due
)
INSERT INTO tenant_pool AS p (pool, tenant, ready, capped)
SELECT due.pool, due.tenant, count(*), bool_or(t.in_flight >= t.max_in_flight)
FROM due JOIN tenant t ON t.tenant = due.tenant GROUP BY due.pool, due.tenant
ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready, capped = excluded.capped
RETURNING pool
"""


async def fire(db: Database, *, limit: int = 256, grace_s: float = GRACE_S) -> Fired:
    """Handle up to `limit` timers that are due, in one transaction.

    A run that waits ends PARTIAL at its deadline, or has its steps undone, or FAILED where that took too
    long; a leased one `grace_s` later, its lease taken away: tell the runners in `revoked`. Delayed runs
    become ready. Locks tenants, then runs.
    """

    async def once() -> Fired:
        async with db.connection() as connection:
            due = [row["run_id"] for row in await connection.fetch(_DUE, limit)]
        if not due:
            return Fired()
        async with db.transaction() as connection:
            await lock_tenants_of(connection, due)
            rows = await connection.fetch(_RUNS, due, grace_s)
            return await _handle(connection, rows, grace_s)

    return await db.retrying(once)


async def _handle(connection: Connection, rows: Sequence[Any], grace_s: float) -> Fired:
    fired = Fired(fired=len(rows))
    endings: list[Ending] = []
    postponed: list[UUID] = []
    stray: list[tuple[UUID, int]] = []
    over: set[UUID] = set()
    delayed: list[tuple[UUID, bool]] = []
    for row in rows:
        run = standing(row)
        run_id = run.place.run_id
        if row["kind"] == _DELAY:
            delayed.append((run_id, row["behind"]))
        elif run.status in ENDED:
            stray.append((run_id, _DEADLINE))
        elif run.status in LEASED and not row["late"]:
            postponed.append(run_id)
        else:
            if row["session_id"] is not None:
                fired.revoked.append((row["session_id"], LeaseRef(run_id, row["epoch"])))
            over.add(run_id)
            endings.append(_at_deadline(run))
    ready = [run_id for run_id, behind in delayed if not behind and run_id not in over]
    stray += [(run_id, _DELAY) for run_id, _ in delayed if run_id not in over]
    if stray:
        await connection.execute(_DROP, [run_id for run_id, _ in stray], [kind for _, kind in stray])
    if postponed:
        await connection.execute(_POSTPONE, postponed, grace_s)
    if ready:
        pools = await connection.fetch(_READY, ready)
        fired.moved.add(Moved(pools=sorted({row["pool"] for row in pools})))
    fired.moved.add(await end(connection, endings))
    return fired


def _at_deadline(run: Standing) -> Ending:
    if run.undoing.begun:
        failure = Failure("COMPENSATION_FAILED", "The time for undoing the run's steps was over.")
        return Ending(run, RunStatus.FAILED, failure)
    where = _WHERE.get(run.status, "and its runner did not end it")
    failure = Failure("BUDGET_EXHAUSTED", f"The run's time was over {where}.", attempts=run.attempt)
    return Ending(run, RunStatus.PARTIAL, failure, Dimension.DEADLINE)
