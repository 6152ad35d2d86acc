"""The audit: what counts is written down and stays as it was written."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from holdfast.kit.auth.audit import Entry
from holdfast.kit.db import Connection

WRITE: Final = """
INSERT INTO audit (tenant, username, credential, action, subject, outcome, call_id)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7)
"""

PAGE: Final = """
SELECT sequence, time, tenant, username, credential, action, subject::text AS subject, outcome, call_id
FROM audit WHERE tenant = $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as it was written."""

    sequence: int
    time: datetime
    entry: Entry


async def write(connection: Connection, entry: Entry) -> None:
    """Add an entry."""
    subject = json.dumps(dict(entry.subject), ensure_ascii=False)
    await connection.execute(
        WRITE, entry.tenant, entry.user, entry.credential, entry.action, subject, entry.outcome, entry.call_id
    )


async def page(connection: Connection, tenant: str, *, before: int, limit: int) -> list[Record]:
    """Return a tenant's entries, newest first."""
    rows = await connection.fetch(PAGE, tenant, before, limit)
    return [
        Record(
            row["sequence"],
            row["time"],
            Entry(
                row["tenant"],
                row["username"],
                row["credential"],
                row["action"],
                json.loads(row["subject"]),
                row["outcome"],
                row["call_id"],
            ),
        )
        for row in rows
    ]
