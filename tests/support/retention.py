"""Lets time have passed: runs accepted days ago, ended a while ago; drops and removes what is then over."""

from uuid import UUID

from holdfast.kit.db import Database
from holdfast.ledger.partition import drop_history
from holdfast.ledger.removal import remove
from tests.support.ledger import execute, fetch


async def age(db: Database, run_id: UUID, days: int, *, partition: bool = True) -> None:
    """Let a run have been accepted that many days ago, with a partition of that day or in the default one."""
    (row,) = await fetch(db, "SELECT current_date - $1::int AS day", days)
    day = row["day"]
    for parent in ("checkpoint", "transcript"):
        if partition:
            name = f"{parent}_{day:%Y%m%d}"
            await execute(
                db,
                f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {parent} "
                f"FOR VALUES FROM ('{day}') TO (date '{day}' + 1)",
            )
        await execute(db, f"UPDATE {parent} SET day = $1 WHERE run_id = $2", day, run_id)
    await execute(db, "UPDATE run_state SET day = $1 WHERE run_id = $2", day, run_id)


async def drop(db: Database, keep: int = 30) -> list[int]:
    """Drop what may be dropped; return how many days ago each day was."""
    ages = []
    async with db.connection() as connection:
        today = await connection.fetchval("SELECT current_date")
        while (day := await drop_history(connection, keep)) is not None:
            ages.append((today - day).days)
    return ages


async def ended_ago(db: Database, seconds: float, *run_ids: UUID) -> None:
    """Let runs have ended, and been looked at last, that long before they did."""
    await execute(
        db,
        """UPDATE run_state SET end_time = end_time - make_interval(secs => $1),
                                keep_from = keep_from - make_interval(secs => $1)
           WHERE run_id = ANY($2::uuid[])""",
        seconds,
        list(run_ids),
    )


async def remove_all(db: Database, *, limit: int = 200) -> int:
    """Remove until nothing is found; return how many were removed."""
    removed = 0
    while (done := await remove(db, limit=limit)).removed + done.put_off:
        removed += done.removed
    return removed


async def traces(db: Database, run_id: UUID) -> set[str]:
    """Name the tables that still know a run, by whatever column holds its id."""
    columns = await fetch(
        db,
        """SELECT c.table_name, c.column_name FROM information_schema.columns c
           JOIN information_schema.tables t USING (table_schema, table_name)
           WHERE c.table_schema = 'holdfast' AND c.data_type = 'uuid' AND t.table_type = 'BASE TABLE'""",
    )
    found = set()
    for table, column in columns:
        if await fetch(db, f'SELECT 1 FROM "{table}" WHERE "{column}" = $1 LIMIT 1', run_id):
            found.add(f"{table}.{column}")
    return found
