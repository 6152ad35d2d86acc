"""Reading runs: as they stand, how they ended, what their streams hold. Changes nothing, locks nothing."""

import json
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import RunNotFound
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.holder import Holder
from holdfast.ledger.run_view import COLUMNS, run_view
from holdfast.ledger.values import Failure, Outcome, RunView, TranscriptRow

_RUN: Final = f"""
SELECT {COLUMNS}, r.envelope, o.result
FROM run r JOIN run_state s ON s.run_id = r.run_id LEFT JOIN run_outcome o ON o.run_id = r.run_id
"""  # noqa: S608 - a constant of ours

_GET: Final = f"{_RUN} WHERE r.run_id = $1 AND r.tenant = $2"

_GET_MANY: Final = f"{_RUN} WHERE r.run_id = ANY($1::uuid[])"

_GET_BY_KEY: Final = f"""
{_RUN} WHERE r.run_id = (SELECT run_id FROM idempotency WHERE tenant = $1 AND idempotency_key = $2)
"""  # noqa: S608 - a constant of ours

_OUTCOMES: Final = """
SELECT run_id, status, result, failure, exhausted FROM run_outcome WHERE run_id = ANY($1::uuid[])
"""

PAGE_BYTES: Final = 256 * 1024
"""A page of a transcript ends before it grows over this, but has at least one row."""

# The row that holds the sequence after the cursor may have begun before it. octet_length knows a stored
# value's size without fetching it.
_TRANSCRIPT: Final = """
SELECT first_sequence, last_sequence, events, note, create_time
FROM (
    SELECT *, sum(octet_length(events)) OVER (ORDER BY first_sequence) AS bytes,
           row_number() OVER (ORDER BY first_sequence) AS ordinal
    FROM (
        SELECT t.first_sequence, t.last_sequence, t.events, t.note, t.create_time
        FROM run_state s JOIN transcript t ON t.run_id = s.run_id AND t.day = s.day
        WHERE s.run_id = $1 AND s.tenant = $2 AND t.last_sequence > $3 AND t.first_sequence >= coalesce((
            SELECT max(b.first_sequence) FROM transcript b
            WHERE b.run_id = s.run_id AND b.day = s.day AND b.first_sequence <= $3 + 1), 0)
        ORDER BY t.first_sequence LIMIT $4) next
) sized
WHERE ordinal = 1 OR coalesce(bytes, 0) <= $5
ORDER BY first_sequence
"""

_MARKED: Final = """
SELECT t.first_sequence, t.last_sequence, t.events, t.note, t.create_time
FROM run_state s JOIN transcript t ON t.run_id = s.run_id AND t.day = s.day
WHERE s.run_id = $1 AND s.tenant = $2 AND t.emitted ? $3 AND t.events IS NOT NULL ORDER BY t.first_sequence
"""

_EXISTS: Final = "SELECT EXISTS (SELECT FROM run_state WHERE run_id = $1 AND tenant = $2)"

_HOLDER: Final = """
SELECT l.session_id, r.address, l.epoch
FROM lease l JOIN runner_session r ON r.session_id = l.session_id WHERE l.run_id = $1
"""

_INTENTS: Final = "SELECT DISTINCT intent FROM served_intent ORDER BY intent"


async def get(connection: Connection, tenant: str, run_id: UUID) -> RunView:
    """Read a run. Raises `RunNotFound`, also for another tenant's."""
    row = await connection.fetchrow(_GET, run_id, tenant)
    if row is None:
        raise RunNotFound("There is no such run.", facts={"run_id": str(run_id)})
    return run_view(row)


async def get_many(connection: Connection, run_ids: Sequence[UUID]) -> dict[UUID, RunView]:
    """Read runs whose tenants the caller knows to be right; unknown ones are left out."""
    return {row["run_id"]: run_view(row) for row in await connection.fetch(_GET_MANY, list(run_ids))}


async def get_by_key(connection: Connection, tenant: str, idempotency_key: str) -> RunView:
    """Read the run that a key stands for. Raises `RunNotFound`."""
    row = await connection.fetchrow(_GET_BY_KEY, tenant, idempotency_key)
    if row is None:
        raise RunNotFound("The idempotency key stands for no run.")
    return run_view(row)


async def outcomes(connection: Connection, run_ids: Sequence[UUID]) -> dict[UUID, Outcome]:
    """Read how runs ended; those that have not are left out. For runs the caller may see."""
    rows = await connection.fetch(_OUTCOMES, list(run_ids))
    return {row["run_id"]: _outcome(row) for row in rows}


async def transcript(
    connection: Connection, tenant: str, run_id: UUID, *, after_sequence: int = 0, limit: int = 100
) -> list[TranscriptRow]:
    """Read what was committed of a run's stream after a sequence, in order.

    At most `limit` rows, or fewer if they are large; at least one if there is any. The first row may begin at
    or before the cursor. Raises `RunNotFound`.
    """
    rows = await connection.fetch(_TRANSCRIPT, run_id, tenant, after_sequence, limit, PAGE_BYTES)
    if not rows and not await connection.fetchval(_EXISTS, run_id, tenant):
        raise RunNotFound("There is no such run.", facts={"run_id": str(run_id)})
    return [_transcript_row(row) for row in rows]


async def marked(connection: Connection, tenant: str, run_id: UUID, mark: str) -> list[TranscriptRow]:
    """Read the rows of a run's stream whose commits have counted something under a mark, in order."""
    return [_transcript_row(row) for row in await connection.fetch(_MARKED, run_id, tenant, mark)]


async def session_address(connection: Connection, run_id: UUID) -> Holder | None:
    """Find the runner that holds a run: where to attach to its stream; None if nobody holds it."""
    row = await connection.fetchrow(_HOLDER, run_id)
    return row and Holder(**dict(row))


async def known_intents(connection: Connection) -> frozenset[str]:
    """Return every intent that a runner has ever served."""
    return frozenset(row["intent"] for row in await connection.fetch(_INTENTS))


def _outcome(row: Any) -> Outcome:
    return Outcome(
        RunStatus(row["status"]),
        row["result"],
        Failure.from_json(row["failure"]),
        Dimension(row["exhausted"]),
    )


def _transcript_row(row: Any) -> TranscriptRow:
    return TranscriptRow(
        row["first_sequence"],
        row["last_sequence"],
        row["events"],
        json.loads(row["note"]) if row["note"] else None,
        row["create_time"],
    )
