"""History is kept by day: the partitions of the coming days are made in time, those of old days dropped."""

from datetime import date

import asyncpg

from holdfast.kit.db import Connection


async def make_partitions(connection: Connection, days_ahead: int) -> int:
    """Make the partitions from today on that are missing; return how many were made. Repeatable."""
    made: int = await connection.fetchval("SELECT make_partitions($1)", days_ahead)
    return made


async def drop_history(connection: Connection, keep_days: int) -> date | None:
    """Drop the transcripts and checkpoints of the oldest day more than `keep_days` (1 or more) ago.

    Returns the day, or None: no such day is left, each of them has a run that has not ended, or history is
    in use right now. Repeatable, also at the same time; call it again until it returns None. Holds all of
    history for itself, for as long as dropping a table takes; waits half a second at most for that.
    """
    try:
        dropped: date | None = await connection.fetchval("SELECT drop_history($1)", keep_days)
    except asyncpg.LockNotAvailableError:  # its look at what is old waits for another's drop, too
        return None
    return dropped
