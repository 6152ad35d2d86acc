"""History is kept by day: the partitions of the coming days are there before their first row."""

from holdfast.kit.db import Connection


async def make_partitions(connection: Connection, days_ahead: int) -> int:
    """Make the partitions from today on that are missing; return how many were made. Repeatable."""
    made: int = await connection.fetchval("SELECT make_partitions($1)", days_ahead)
    return made
