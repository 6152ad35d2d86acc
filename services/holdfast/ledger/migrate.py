"""The schema only ever moves forward: each file of `migrations/` is applied once, in order, in a transaction.

A file is named `NNNN_<noun>.sql` and says in its first line (`-- phase: before` or `-- phase: after`) whether
it belongs before the new code is rolled out (it adds what both versions can live with) or after (it removes
what only the old version used). A file of phase before builds on none of phase after of the same release: it
is applied though those come first in order, and have to wait.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Final, Literal

import asyncpg

Phase = Literal["before", "after"]

LOCK_TIMEOUT: Final = 2.0
"""Seconds that a change of the schema waits for a lock: who comes after it for the table waits, too."""
PATIENCE: Final = 300.0
"""Seconds for which it is tried again, with pauses in which others come to their turn."""
_PAUSE: Final = 1.0

_LOCK: Final = 0x486F6C64  # one migration at a time per database; any constant of our own
_PHASES: Final[dict[str, Phase]] = {"-- phase: before": "before", "-- phase: after": "after"}

PREPARE: Final = """
CREATE SCHEMA IF NOT EXISTS holdfast;
CREATE TABLE IF NOT EXISTS holdfast.migration (
    name        text PRIMARY KEY,
    digest      bytea NOT NULL,
    apply_time  timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


class MigrationError(Exception):
    """The database's history and the files of this release do not fit together."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; `apply_time` is None while it is still to be applied."""

    name: str
    phase: Phase
    sql: str
    apply_time: datetime | None = None

    @property
    def digest(self) -> bytes:
        """Tell a file that was edited after it was applied."""
        return hashlib.sha256(self.sql.encode()).digest()


async def migrate(
    database_url: str,
    *,
    phase: Phase | None = None,
    lock_timeout: float = LOCK_TIMEOUT,
    patience: float = PATIENCE,
) -> list[str]:
    """Apply what is missing, of both phases or of one, and return the names of what was applied.

    Repeatable, also at the same time: an advisory lock lets one do it while the others wait. A crash leaves
    whole migrations only. Under load: a lock that is not to be had within `lock_timeout` seconds is asked for
    again later, for `patience` seconds in all. Raises `MigrationError` if an applied file has changed or is
    unknown here, or if a lock is not to be had.
    """
    connection = await _connect(database_url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        if not await connection.fetchval("SELECT to_regclass('holdfast.migration') IS NOT NULL"):
            await connection.execute(PREPARE)
        missing = [m for m in await _known(connection) if m.apply_time is None]
        chosen = [m for m in missing if phase in (None, m.phase)]
        passed_over = [m for m in missing if chosen and m.name < chosen[-1].name and m not in chosen]
        if passed_over and phase == "after":
            raise MigrationError(f"{passed_over[0].name} comes first and is of phase {passed_over[0].phase}.")
        for migration in chosen:
            await _apply_patiently(connection, migration, lock_timeout, patience)
        return [m.name for m in chosen]
    finally:
        await connection.close()


async def status(database_url: str) -> list[Migration]:
    """Return every migration of this release, applied or not, in order; changes nothing."""
    connection = await _connect(database_url)
    try:
        if not await connection.fetchval("SELECT to_regclass('holdfast.migration') IS NOT NULL"):
            return list(_files())
        return await _known(connection)
    finally:
        await connection.close()


async def _connect(database_url: str) -> Any:
    return await asyncpg.connect(database_url, server_settings={"application_name": "holdfast-migrate"})


async def _known(connection: Any) -> list[Migration]:
    applied = {
        row["name"]: row
        for row in await connection.fetch("SELECT name, digest, apply_time FROM holdfast.migration")
    }
    migrations = []
    for file in _files():
        row = applied.pop(file.name, None)
        if row is not None and row["digest"] != file.digest:
            raise MigrationError(f"{file.name} was edited after it was applied to this database.")
        migrations.append(Migration(file.name, file.phase, file.sql, row and row["apply_time"]))
    if applied:
        raise MigrationError(f"This database is newer than this release: it has {min(applied)}.")
    return migrations


async def _apply_patiently(
    connection: Any, migration: Migration, lock_timeout: float, patience: float
) -> None:
    gives_up = time.monotonic() + patience
    while True:
        try:
            return await _apply(connection, migration, lock_timeout)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if time.monotonic() >= gives_up:
                raise MigrationError(
                    f"{migration.name} could not lock what it changes within {patience:g} s: "
                    "look for long transactions in pg_stat_activity and try again."
                ) from error
        await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 -- no secret


async def _apply(connection: Any, migration: Migration, lock_timeout: float) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{round(lock_timeout * 1000)}ms'")
        await connection.execute("SET LOCAL search_path = holdfast")
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO holdfast.migration (name, digest) VALUES ($1, $2)", migration.name, migration.digest
        )


def _files() -> Sequence[Migration]:
    folder = resources.files("holdfast.ledger") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [_parsed(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files]


def _parsed(name: str, sql: str) -> Migration:
    first = sql.partition("\n")[0].strip()
    if first not in _PHASES:
        raise MigrationError(f"{name} does not say its phase in its first line.")
    return Migration(name, _PHASES[first], sql)
