"""Ids as the ledger's driver keeps them: UUIDs, read and written many times as fast as Python's own."""

from uuid import UUID

from asyncpg.pgproto import pgproto


def ledger_id(value: str | bytes) -> UUID:
    """Return the id of a text, or of 16 bytes; equal to Python's own of that value. Raises ValueError."""
    made: UUID = pgproto.UUID(value)
    return made
