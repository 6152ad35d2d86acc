"""Items that are read from a source: one Invoker at a time has its turn, and stores them behind the last key.

waiting ──(its time has come)──▶ being read ──(no more)──▶ the batch is whole, and the row gone
   ▲ ──(failed, stopped, or silent for too long)── │

Each chunk is stored together with the key of its last item, and only by whose turn it is: whoever goes on
after it, after whatever crash, goes on behind exactly what is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger import batch
from holdfast.ledger.batch import NewItem

HOLD: Final = timedelta(seconds=10)
"""Silence after which another one has its turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A batch whose source is to be read, from behind `last_key` on; `failures` turns have failed before."""

    turn: UUID
    batch_id: UUID
    tenant: str
    spec: bytes
    last_key: str | None
    uploaded: int
    failures: int


_TAKE: Final = """
WITH due AS (
    SELECT batch_id FROM batch_source WHERE look_time <= clock_timestamp()
    ORDER BY look_time LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE batch_source s SET turn = gen_random_uuid(), look_time = clock_timestamp() + $2::interval
FROM due d JOIN batch b ON b.batch_id = d.batch_id
WHERE s.batch_id = d.batch_id
RETURNING s.turn, s.batch_id, b.tenant, b.spec, s.last_key, b.uploaded, s.failures
"""
_HOLD: Final = """
UPDATE batch_source SET look_time = clock_timestamp() + $2::interval WHERE turn = ANY($1::uuid[])
"""
_LEAVE: Final = """
UPDATE batch_source SET turn = NULL, look_time = clock_timestamp() WHERE turn = ANY($1::uuid[])
"""

# The row is there as long as the batch is UPLOADING: both go in one transaction.
_LOCK: Final = """
SELECT b.* FROM batch b JOIN batch_source s ON s.batch_id = b.batch_id
WHERE b.batch_id = $1 AND s.turn = $2 FOR NO KEY UPDATE
"""
_STORED: Final = """
UPDATE batch_source SET last_key = $2, failures = 0, look_time = clock_timestamp() + $3::interval
WHERE batch_id = $1
"""
_PUT_OFF: Final = """
UPDATE batch_source SET turn = NULL, failures = failures + 1, look_time = clock_timestamp() + $2::interval
WHERE batch_id = $1
"""
_WHY: Final = "UPDATE batch SET reason = $2 WHERE batch_id = $1 AND reason <> $2"


async def take(db: Database, limit: int) -> list[Turn]:
    """Take the turn at up to `limit` sources whose time has come; a crash gives it back after `HOLD`."""
    async with db.connection() as connection:
        return [Turn(**row) for row in await connection.fetch(_TAKE, limit, HOLD)]


async def hold(db: Database, turns: Sequence[UUID]) -> None:
    """Keep turns for another `HOLD`."""
    async with db.connection() as connection:
        await connection.execute(_HOLD, list(turns), HOLD)


async def leave(db: Database, turns: Sequence[UUID]) -> None:
    """Give turns to others, at once."""
    async with db.connection() as connection:
        await connection.execute(_LEAVE, list(turns))


async def store(db: Database, turn: Turn, items: Sequence[NewItem], last_key: str) -> bool:
    """Store the next items, with the key of the last of them; False if the turn is over.

    Not to be repeated after a lost answer: then the turn has failed, and the next goes on behind what is
    stored. Raises `InvalidField` for a key twice.
    """
    async with db.transaction() as connection:
        row = await _locked(connection, turn)
        if row is None:
            return False
        await batch.store(connection, row, items)
        await connection.execute(_STORED, turn.batch_id, last_key, HOLD)
        await connection.execute(_WHY, turn.batch_id, "")
        return True


async def finish(db: Database, turn: Turn) -> bool:
    """Say that the source has no more: the batch is whole. False if the turn is over."""
    async with db.transaction() as connection:
        row = await _locked(connection, turn)
        if row is None:
            return False
        await batch.close_upload(connection, row)
        return True


async def put_off(db: Database, turn: Turn, why: str, pause: timedelta) -> None:
    """Let a source be read again after a pause, and say why on the batch. Nothing, if the turn is over."""
    async with db.transaction() as connection:
        if await _locked(connection, turn) is not None:
            await connection.execute(_PUT_OFF, turn.batch_id, pause)
            await connection.execute(_WHY, turn.batch_id, why)


async def _locked(connection: Connection, turn: Turn) -> Any:
    return await connection.fetchrow(_LOCK, turn.batch_id, turn.turn)
