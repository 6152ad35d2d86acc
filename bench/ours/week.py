"""A week of churn in half an hour at most: `python -m bench.ours.week`, as `churn`, by a clock that is fast.

PostgreSQL's clock goes a thousand times as fast as ours, by Debian's libfaketime. So days pass, and with them
what an Invoker does about days: partitions are made ahead, and dropped with the history of old days. Runs are
kept for a day. A statement of milliseconds takes seconds by that clock, by which its timeouts go, too.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from bench.ours.churn import Terms, churn
from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger.partition import drop_history, make_partitions

RUNS: Final = 180_000
FASTER: Final = 1000
DAY_SECONDS: Final = 86_400.0
KEEP_DAYS: Final = 1
DAYS_AHEAD: Final = 3
_TIMEOUTS: Final = ("statement_timeout", "lock_timeout", "idle_in_transaction_timeout")


class Hastened(EmbeddedPostgres):
    """An embedded PostgreSQL by whose clock a thousand seconds are one."""

    def __init__(self, library: Path) -> None:
        """Take libfaketime."""
        super().__init__(ephemeral=True)
        self._library = library

    def _server_command(self) -> list[str]:
        clock = f"FAKETIME=+0 x{FASTER}"
        # What waits for a time waits as long as ever: only what the time is has changed.
        told = (f"LD_PRELOAD={self._library}", clock, "DONT_FAKE_MONOTONIC=1")
        return ["/usr/bin/env", *told, *super()._server_command()]


async def days(db: Database) -> None:
    """Make and drop what belongs to days, as an Invoker does, but every second."""
    while True:
        async with db.connection() as connection:
            await make_partitions(connection, DAYS_AHEAD)
            while await drop_history(connection, KEEP_DAYS):
                pass
        await asyncio.sleep(1)


def main() -> int:
    """Print what a week does to the ledger, as one line of JSON."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        sys.stderr.write("There is no libfaketime here: 'apt-get install libfaketime'.\n")
        return 1
    patience = dict.fromkeys(_TIMEOUTS, 100.0 * FASTER)
    terms = Terms(kept_s=DAY_SECONDS, hundred_s=0.25, connect=patience)
    sys.stdout.write(json.dumps(asyncio.run(churn(RUNS, Hastened(library), terms, days))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
