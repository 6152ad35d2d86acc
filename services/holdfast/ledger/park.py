"""Waiting without a runner: a run is parked by its commit, and woken by a signal or a time.

RUNNING ──(park)──▶ PARKED ──(a signal under one of its keys, its time)──▶ QUEUED
           └──(what it waits for is there already)──────────────────────────▲

All inside the caller's transaction, under the tenants' locks and then those of the runs' rows: so a signal
that came before the park is seen by it, and one that comes after finds the run PARKED.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.commit_value import CommitItem, Park
from holdfast.ledger.release import Place, enqueue

_CALLED: Final = """
SELECT m.run_id, m.signal_id
FROM unnest($1::uuid[], $2::text[]) AS u (run_id, key)
JOIN mailbox m ON m.run_id = u.run_id AND m.key = u.key AND NOT m.consumed
"""

# One row per run and key, gathered: PostgreSQL takes no array of arrays of different lengths.
_REST: Final = """
WITH kept AS (
    UPDATE run_state s SET park_keys = coalesce(k.keys, '{}'), waits = s.waits + 1
    FROM unnest($1::uuid[]) AS r (run_id)
    LEFT JOIN (
        SELECT run_id, array_agg(key) AS keys
        FROM unnest($2::uuid[], $3::text[]) AS u (run_id, key) GROUP BY run_id
    ) k ON k.run_id = r.run_id
    WHERE s.run_id = r.run_id
)
INSERT INTO timer (run_id, kind, due_time, tenant)
SELECT t.run_id, 3, clock_timestamp() + make_interval(secs => t.seconds), s.tenant
FROM unnest($4::uuid[], $5::float8[]) AS t (run_id, seconds) JOIN run_state s ON s.run_id = t.run_id
ON CONFLICT (run_id, kind) DO UPDATE SET due_time = excluded.due_time
"""

_WAKE: Final = """
WITH silenced AS (
    DELETE FROM timer WHERE run_id = ANY($1::uuid[]) AND kind = 3
)
UPDATE run_state SET status = 1, park_keys = NULL
WHERE run_id = ANY($1::uuid[]) AND status = 3
RETURNING run_id, tenant, pool, rank, seq, ordering_key
"""


async def called(connection: Connection, parks: Sequence[tuple[CommitItem, Park]]) -> set[UUID]:
    """Return the runs, their rows locked, for which something waits under a key, or whose time is over.

    What their own commits consume does not wait any more.
    """
    if not parks:
        return set()
    consumed = {item.run_id: frozenset(item.consumed) for item, _ in parks}
    runs, keys = _keys([(item.run_id, move) for item, move in parks])
    rows = await connection.fetch(_CALLED, runs, keys) if runs else []
    over = {item.run_id for item, move in parks if move.seconds is not None and move.seconds <= 0}
    return over | {row["run_id"] for row in rows if row["signal_id"] not in consumed[row["run_id"]]}


async def rest(connection: Connection, parks: Sequence[tuple[UUID, Park]]) -> None:
    """Write down what wakes runs that have just been moved to PARKED."""
    if parks:
        runs, keys = _keys(parks)
        timed = [(run_id, move.seconds) for run_id, move in parks if move.seconds is not None]
        await connection.execute(
            _REST,
            [run_id for run_id, _ in parks],
            runs,
            keys,
            [run_id for run_id, _ in timed],
            [seconds for _, seconds in timed],
        )


async def wake(connection: Connection, run_ids: Sequence[UUID]) -> list[str]:
    """Put runs that are PARKED back into the queue, at the front of their pools; return the pools.

    The caller holds their tenants' locks and has locked their rows in order. Others are left as they are.
    """
    rows = await connection.fetch(_WAKE, list(run_ids)) if run_ids else []
    return await enqueue(connection, [Place(*row.values()) for row in rows])


def _keys(parks: Sequence[tuple[UUID, Park]]) -> tuple[list[UUID], list[str]]:
    pairs = [(run_id, key) for run_id, move in parks for key in dict.fromkeys(move.keys)]
    return [run_id for run_id, _ in pairs], [key for _, key in pairs]
