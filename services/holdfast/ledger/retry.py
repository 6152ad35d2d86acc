"""Retrying: a person starts an ended run again, from its recorded steps."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import QueueFull, RunNotFound, RunNotRetryable
from holdfast.ledger import child_end
from holdfast.ledger.domain.admission import Door, Room, Where
from holdfast.ledger.domain.budget import Dimension, Limits, Usage, leaves_room
from holdfast.ledger.domain.status import RETRYABLE, RunStatus
from holdfast.ledger.platform_move import Moved
from holdfast.ledger.release import Place, enqueue
from holdfast.ledger.values import limits_of


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that has ended, and what it stands behind if it comes back."""

    place: Place
    status: RunStatus
    limits: Limits
    usage: Usage
    exhausted: Dimension
    lane_held: bool


_LOCK: Final = """
SELECT in_flight, max_in_flight, queued, max_queued FROM tenant WHERE tenant = $1 FOR NO KEY UPDATE
"""

_FIND: Final = """
SELECT s.run_id, s.tenant, s.pool, s.rank, s.seq, s.ordering_key, s.status, s.deadline_ms, s.max_steps,
       s.max_tools, s.max_tokens, s.max_context, s.steps, s.tools, s.tokens, s.context,
       coalesce((SELECT exhausted FROM run_outcome o WHERE o.run_id = s.run_id), 0) AS exhausted,
       EXISTS (SELECT FROM lane l WHERE l.tenant = s.tenant AND l.ordering_key = s.ordering_key) AS lane_held
FROM run_state s WHERE s.run_id = $1 AND s.tenant = $2 FOR UPDATE OF s
"""

# Held until the restart is committed, so that what it goes on from is not dropped meanwhile.
_KEEP_HISTORY: Final = "LOCK TABLE ONLY transcript IN ROW EXCLUSIVE MODE"
_HISTORY_DROPPED: Final = """
SELECT EXISTS (SELECT FROM history_dropped WHERE day = (SELECT day FROM run_state WHERE run_id = $1))
"""

_RESTART: Final = """
WITH restarted AS (
    UPDATE run_state
    SET status = 1, attempt = 0, cancel_requested = false, cancel_reason = NULL, end_time = NULL,
        paused = NULL, last_sequence = last_sequence + 1, epoch = epoch + 1,
        deadline_time = clock_timestamp() + make_interval(secs => $2::bigint / 1e3),
        deadline_ms = $2, max_steps = $3, max_tools = $4, max_tokens = $5, max_context = $6
    WHERE run_id = $1
    RETURNING run_id, day, epoch, last_sequence, deadline_time
), forgotten AS (
    DELETE FROM run_outcome WHERE run_id = $1
), timed AS (
    INSERT INTO timer (run_id, kind, due_time) SELECT run_id, 1, deadline_time FROM restarted
)
INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
SELECT day, run_id, last_sequence, last_sequence,
       jsonb_build_object('kind', 'requeued', 'time', clock_timestamp(), 'epoch', epoch, 'retried', true)
FROM restarted
"""

_TAKE_LANE: Final = "INSERT INTO lane (tenant, ordering_key, holder) VALUES ($1, $2, $3)"
_WAIT_BEHIND: Final = """
WITH counted AS (UPDATE tenant SET queued = queued + 1 WHERE tenant = $1)
INSERT INTO blocked (tenant, ordering_key, seq, run_id) VALUES ($1, $2, $3, $4)
"""


async def retry(db: Database, tenant: str, run_id: UUID, limits: Limits | None = None) -> Moved:
    """Put an ended run back into the queue, its steps kept, its attempts counted afresh.

    The deadline counts from now; limits at 0 stay. It hears again how its children have ended. Of its
    ordering key it takes its old place among those that wait. Not repeatable: a second call finds the run
    queued and raises `RunNotRetryable`, as for a run that succeeded, that ended at a limit which the new
    budget does not lift, or whose recorded steps are no longer kept. Raises `RunNotFound`, `QueueFull`. Locks
    the tenant, then the run, then history against being dropped.
    """

    async def once() -> Moved:
        async with db.transaction() as connection:
            return await _retry(connection, tenant, run_id, limits or Limits())

    return await db.retrying(once)


async def _retry(connection: Connection, tenant: str, run_id: UUID, asked: Limits) -> Moved:
    room = await connection.fetchrow(_LOCK, tenant)
    row = room and await connection.fetchrow(_FIND, run_id, tenant)
    if row is None:
        raise RunNotFound("There is no such run.", facts={"run_id": str(run_id)})
    run = _ended(row)
    limits = asked.over(run.limits)
    _refuse_unless_retryable(run, limits)
    await connection.execute(_KEEP_HISTORY)
    if await connection.fetchval(_HISTORY_DROPPED, run_id):
        raise RunNotRetryable(
            "The run's recorded steps are no longer kept; without them they would be executed again.",
            facts={"run_id": str(run_id), "status": run.status.name},
        )
    where = Door(Room(**dict(room))).enter(ordering_key="", delayed=False, to_runner=False)
    if where is Where.REFUSED:
        raise QueueFull("The tenant's queue is full.", retry_after=1.0, quota="max_queued")
    await connection.execute(
        _RESTART,
        run_id,
        limits.deadline_ms,
        limits.max_steps,
        limits.max_tools,
        limits.max_tokens,
        limits.max_context,
    )
    await child_end.tell_again(connection, tenant, run_id)
    place = run.place
    if place.ordering_key and run.lane_held:
        await connection.execute(_WAIT_BEHIND, tenant, place.ordering_key, place.seq, run_id)
        return Moved(requeued=[run_id])
    if place.ordering_key:
        await connection.execute(_TAKE_LANE, tenant, place.ordering_key, run_id)
    return Moved(requeued=[run_id], pools=await enqueue(connection, [place]))


def _refuse_unless_retryable(run: _Ended, limits: Limits) -> None:
    facts = {"run_id": str(run.place.run_id), "status": run.status.name}
    if run.status not in RETRYABLE:
        raise RunNotRetryable(f"A run that is {run.status.name} cannot be started again.", facts=facts)
    if not leaves_room(run.exhausted, run.usage, limits):
        raise RunNotRetryable(
            f"The run spent its budget of {run.exhausted.name.lower()}; give it a larger one.",
            facts=facts | {"dimension": run.exhausted.name},
        )


def _ended(row: Any) -> _Ended:
    return _Ended(
        place=Place(row["run_id"], row["tenant"], row["pool"], row["rank"], row["seq"], row["ordering_key"]),
        status=RunStatus(row["status"]),
        limits=limits_of(row),
        usage=Usage(row["steps"], row["tools"], row["tokens"], row["context"]),
        exhausted=Dimension(row["exhausted"]),
        lane_held=row["lane_held"],
    )
