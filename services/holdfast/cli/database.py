"""Which database a command means, and what to say when it does not answer."""

import os
from pathlib import Path

import click

from holdfast.dev.record import find_record


def choose_database(told: str | None) -> str:
    """Return the ledger's URL: told, from HOLDFAST_DATABASE_URL, or of the suite running here."""
    url = known_database(told)
    if url is None:
        raise click.UsageError("Which database? Say --database-url, or set HOLDFAST_DATABASE_URL.")
    return url


def known_database(told: str | None) -> str | None:
    """Return the ledger's URL if there is one to know."""
    record = find_record(Path.cwd()) or {}
    return told or os.environ.get("HOLDFAST_DATABASE_URL") or record.get("database_url")


def unreachable(error: BaseException) -> str | None:
    """Return a sentence if `error` means that the database refused or did not answer, else None."""
    import asyncpg

    if isinstance(error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return f"The database cannot be used: {str(error).rstrip('.') or type(error).__name__}."
    return None
