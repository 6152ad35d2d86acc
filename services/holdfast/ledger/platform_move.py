"""Moves that no runner makes: the platform ends or queues again a run whose lease is over or never was.

Inside the caller's transaction, under the tenants' locks and with the runs' rows locked. Each move leaves a
note in the run's transcript, so a stream tells of it. The epoch grows with it: what the lost runner showed
and never committed had the same sequences, and must not be taken for the note.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger import alert, approval_end, child_end
from holdfast.ledger.domain.attempt import Next
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.status import ENDED, RunStatus
from holdfast.ledger.domain.undo import Undoing, UndoOn, called_for
from holdfast.ledger.release import Place, enqueue, pass_lanes, release_leases, unqueue
from holdfast.ledger.undo import enter
from holdfast.ledger.values import Failure

__all__ = ["COLUMNS", "Ending", "Moved", "Standing", "cancelled", "end", "requeue", "settle", "standing"]

COLUMNS: Final = (
    "s.run_id, s.tenant, s.pool, s.rank, s.seq, s.ordering_key, s.status, s.attempt, s.max_attempts, "
    "s.cancel_requested, s.cancel_reason, s.last_failure, s.deadline_time, s.undo_on, "
    "s.undoing IS NOT NULL AS undoing"
)
"""What `standing` reads of `run_state s`."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as it stands under its tenant's lock."""

    place: Place
    status: RunStatus
    attempt: int
    max_attempts: int
    cancel_requested: bool
    cancel_reason: str
    last_failure: Failure | None
    undoing: Undoing


@dataclass(slots=True)
class Moved:
    """What a verb moved: runs that ended, runs that wait again, and the pools that got work."""

    ended: list[UUID] = field(default_factory=list)
    dead_lettered: list[UUID] = field(default_factory=list)
    requeued: list[UUID] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    mail: list[UUID] = field(default_factory=list)
    """Runs that were sent a signal: the ends of their children."""

    @property
    def count(self) -> int:
        """How many runs moved."""
        return len(self.ended) + len(self.requeued)

    def add(self, other: "Moved") -> None:
        """Take in what another call moved."""
        self.ended += other.ended
        self.dead_lettered += other.dead_lettered
        self.requeued += other.requeued
        self.pools += [pool for pool in other.pools if pool not in self.pools]
        self.mail += other.mail


@dataclass(frozen=True, slots=True)
class Ending:
    """A run that ends, and how."""

    run: Standing
    status: RunStatus
    failure: Failure | None = None
    exhausted: Dimension = Dimension.NONE


_END: Final = """
WITH moved AS (
    UPDATE run_state s
    SET status = u.status, end_time = clock_timestamp(), last_sequence = last_sequence + 1, epoch = epoch + 1,
        mail_waiting = 0, mail_bytes = 0
    FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::smallint[])
        AS u (run_id, status, failure, exhausted)
    WHERE s.run_id = u.run_id
    RETURNING s.run_id, s.day, s.epoch, s.last_sequence, u.status, u.failure::jsonb AS failure, u.exhausted,
              jsonb_build_object('steps', s.steps, 'tools', s.tools, 'tokens', s.tokens, 'context', s.context,
                  'elapsed_ms', floor(1000 * extract(epoch FROM s.end_time - s.create_time))::bigint) AS usage
), forgotten AS (
    DELETE FROM mailbox WHERE run_id = ANY($1::uuid[])
), noted AS (
    INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
    SELECT day, run_id, last_sequence, last_sequence,
           jsonb_build_object('kind', 'ended', 'time', clock_timestamp(), 'epoch', epoch, 'status', status,
                              'failure', failure, 'exhausted', exhausted, 'usage', usage)
    FROM moved
)
INSERT INTO run_outcome (run_id, status, failure, exhausted)
SELECT run_id, status, failure, exhausted FROM moved
"""

_UNDO: Final = """
WITH moved AS (
    UPDATE run_state s SET status = 1, last_sequence = last_sequence + 1, epoch = epoch + 1, park_keys = NULL,
                           paused = NULL
    FROM unnest($1::uuid[], $2::text[]) AS u (run_id, cause)
    WHERE s.run_id = u.run_id
    RETURNING s.run_id, s.day, s.epoch, s.last_sequence, u.cause::jsonb AS cause
)
INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
SELECT day, run_id, last_sequence, last_sequence,
       jsonb_build_object('kind', 'compensating', 'time', clock_timestamp(), 'epoch', epoch, 'failure', cause)
FROM moved
"""

_REQUEUE: Final = """
WITH moved AS (
    UPDATE run_state s SET status = 1, attempt = u.attempt, last_sequence = last_sequence + 1,
                           epoch = epoch + 1, last_failure = coalesce(u.failure::jsonb, last_failure)
    FROM unnest($1::uuid[], $2::int[], $3::text[]) AS u (run_id, attempt, failure)
    WHERE s.run_id = u.run_id
    RETURNING s.run_id, s.day, s.epoch, s.last_sequence, u.failure::jsonb AS failure
)
INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
SELECT day, run_id, last_sequence, last_sequence,
       jsonb_build_object('kind', 'requeued', 'time', clock_timestamp(), 'epoch', epoch, 'failure', failure)
FROM moved
"""


def standing(row: Any) -> Standing:
    """Read a row of `COLUMNS`."""
    place = Place(row["run_id"], row["tenant"], row["pool"], row["rank"], row["seq"], row["ordering_key"])
    return Standing(
        place,
        RunStatus(row["status"]),
        row["attempt"],
        row["max_attempts"],
        row["cancel_requested"],
        row["cancel_reason"] or "",
        Failure.from_json(row["last_failure"]),
        Undoing(UndoOn(row["undo_on"]), row["undoing"]),
    )


async def end(connection: Connection, endings: Sequence[Ending]) -> Moved:
    """End runs that no commit ends, or put them into the queue to have their steps undone first.

    Releases what they hold, writes outcomes, clears mailboxes, passes lanes, tells parents.
    """
    undone: list[Ending] = []
    over: list[Ending] = []
    for each in endings:
        (undone if called_for(each.status, each.run.undoing) else over).append(each)
    moved = await _end(connection, over)
    moved.add(await _undo(connection, undone))
    return moved


async def _undo(connection: Connection, endings: Sequence[Ending]) -> Moved:
    """Begin to undo the steps of runs, held by a runner or by nobody, that would end."""
    if not endings:
        return Moved()
    causes = [each.failure or Failure(each.status.name, "") for each in endings]
    runs = [each.run for each in endings]
    ids = [run.place.run_id for run in runs]
    await connection.execute(_UNDO, ids, [cause.to_json() for cause in causes])
    pools = await release_leases(connection, ids)
    queued = [run.place for run in runs if run.status is RunStatus.QUEUED]
    if queued:
        pools += await unqueue(connection, queued)
    await enter(connection, list(zip(ids, causes, strict=True)))
    pools += await enqueue(connection, [run.place for run in runs])
    return Moved(requeued=ids, pools=pools)


async def _end(connection: Connection, endings: Sequence[Ending]) -> Moved:
    if not endings:
        return Moved()
    runs = [ending.run for ending in endings]
    await connection.execute(
        _END,
        [run.place.run_id for run in runs],
        [int(ending.status) for ending in endings],
        [ending.failure and ending.failure.to_json() for ending in endings],
        [int(ending.exhausted) for ending in endings],
    )
    await approval_end.close(connection, [run.place.run_id for run in runs])
    leased = [run.place.run_id for run in runs if run.status is not RunStatus.QUEUED]
    queued = [run.place for run in runs if run.status is RunStatus.QUEUED]
    pools = await release_leases(connection, leased) if leased else []
    if queued:
        pools += await unqueue(connection, queued)
    pools += await pass_lanes(
        connection, [(run.place.tenant, run.place.ordering_key, run.place.run_id) for run in runs]
    )
    told = await child_end.settle(connection, [run.place.run_id for run in runs])
    await alert.dead_lettered(
        connection, [e.run.place.run_id for e in endings if e.status is RunStatus.DEAD_LETTERED]
    )
    return Moved(
        ended=[run.place.run_id for run in runs],
        dead_lettered=[e.run.place.run_id for e in endings if e.status is RunStatus.DEAD_LETTERED],
        pools=pools + told.pools,
        mail=told.mail,
    )


async def requeue(connection: Connection, runs: Sequence[tuple[Standing, Next, Failure | None]]) -> Moved:
    """Put leased runs back at the front of their pools; they keep their lanes."""
    if not runs:
        return Moved()
    ids = [run.place.run_id for run, _, _ in runs]
    await connection.execute(
        _REQUEUE,
        ids,
        [after.attempt for _, after, _ in runs],
        [failure and failure.to_json() for _, _, failure in runs],
    )
    pools = await release_leases(connection, ids, ended=())
    pools += await enqueue(connection, [run.place for run, _, _ in runs])
    return Moved(requeued=ids, pools=pools)


async def settle(
    connection: Connection, runs: Sequence[tuple[Standing, Next]], failure: Failure | None
) -> Moved:
    """Move leased runs as decided: back to the queue, cancelled, or to the dead letters."""
    back = [(run, after, failure) for run, after in runs if after.status is RunStatus.QUEUED]
    endings = [
        Ending(run, after.status, cancelled(run) if after.status is RunStatus.CANCELLED else failure)
        for run, after in runs
        if after.status in ENDED
    ]
    moved = await end(connection, endings)
    moved.add(await requeue(connection, back))
    return moved


def cancelled(run: Standing) -> Failure:
    """Return why a cancelled run ended."""
    return Failure("CANCELLED", run.cancel_reason or "Someone asked to cancel the run.")
