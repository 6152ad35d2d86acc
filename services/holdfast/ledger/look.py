"""One look at what the clock and others have brought about, for those who would each look for their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger import held, throttle_sql


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to do: sessions, timers, runs to wake or cancel, pools, schedules, events, batches.

    And sources to be read, runs that the runners here could take, and signals that they may lack.
    """

    expired: bool
    due: bool
    woken: bool
    orphaned: bool
    held: bool
    scheduled: bool
    staged: bool
    batching: bool
    applying: bool
    sourced: bool
    ready: bool
    mail: bool


# Statements' own time, so each index is looked into once; none takes a volatile clock.
_LOOK: Final = f"""
SELECT EXISTS (SELECT FROM runner_session WHERE expire_time <= now()) AS expired,
       EXISTS (SELECT FROM timer WHERE kind < 3 AND due_time <= now()) AS due,
       EXISTS (SELECT FROM timer WHERE kind = 3 AND due_time <= now()) AS woken,
       EXISTS (SELECT FROM run_state WHERE cancel_requested AND status IN (1, 3)) AS orphaned,
       EXISTS ({held.DUE}) OR EXISTS ({throttle_sql.DUE}) AS held,
       EXISTS (SELECT FROM schedule WHERE wake_time <= now()) AS scheduled,
       EXISTS (SELECT FROM run_inbox) AS staged,
       EXISTS (SELECT FROM batch_active) AS batching,
       EXISTS (SELECT FROM batch_applying) OR EXISTS (SELECT FROM batch_news) AS applying,
       EXISTS (SELECT FROM batch_source WHERE look_time <= now()) AS sourced,
       EXISTS (SELECT FROM unnest($1::text[]) AS p CROSS JOIN LATERAL (
           SELECT FROM tenant_pool t
           WHERE t.pool = p AND t.ready > 0 AND NOT t.capped AND NOT t.held LIMIT 1) t) AS ready,
       EXISTS (SELECT FROM run_state s JOIN lease l ON l.run_id = s.run_id
               WHERE s.mail_waiting > 0 AND s.status IN (2, 4) AND l.session_id = ANY($2::uuid[])) AS mail
"""  # noqa: S608 - a constant of ours


async def look(
    connection: Connection, *, pools: Sequence[str] = (), session_ids: Sequence[UUID] = ()
) -> Seen:
    """Say what there is to do now. Locks nothing; whoever does it looks again.

    `pools` are those in which this process would claim, the sessions those of the runners connected to it.
    """
    return Seen(*(await connection.fetchrow(_LOOK, list(pools), list(session_ids))).values())
