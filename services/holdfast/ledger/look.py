"""One look at what the clock and others have brought about, for those who would each look for their own."""

from dataclasses import dataclass
from typing import Final

from holdfast.kit.db import Connection


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to do: of sessions, timers, runs to wake or cancel, schedules, events, batches."""

    expired: bool
    due: bool
    woken: bool
    orphaned: bool
    scheduled: bool
    staged: bool
    batching: bool


# Statements' own time, so each index is looked into once; none takes a volatile clock.
_LOOK: Final = """
SELECT EXISTS (SELECT FROM runner_session WHERE expire_time <= now()) AS expired,
       EXISTS (SELECT FROM timer WHERE kind < 3 AND due_time <= now()) AS due,
       EXISTS (SELECT FROM timer WHERE kind = 3 AND due_time <= now()) AS woken,
       EXISTS (SELECT FROM run_state WHERE cancel_requested AND status IN (1, 3)) AS orphaned,
       EXISTS (SELECT FROM schedule WHERE wake_time <= now()) AS scheduled,
       EXISTS (SELECT FROM run_inbox) AS staged,
       EXISTS (SELECT FROM batch_active) AS batching
"""


async def look(connection: Connection) -> Seen:
    """Say what there is to do now. Locks nothing; whoever does it looks again."""
    return Seen(*(await connection.fetchrow(_LOOK)).values())
