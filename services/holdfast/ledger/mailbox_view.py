"""Reading mailboxes: what a runner that takes over finds, and what must be told to one that holds."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger.lease_held import held

PAGE_SIGNALS: Final = 500
PAGE_BYTES: Final = 1024 * 1024
"""A page ends before it grows over this, but has at least one signal."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal as it waits in a mailbox; `payload` is JSON, `sequence` its place from 1 without gaps."""

    run_id: UUID
    signal_id: str
    key: str
    payload: bytes
    urgent: bool
    sequence: int


@dataclass(frozen=True, slots=True)
class Mail:
    """A leased run that has signals waiting; `last` is the sequence of the last it was ever sent."""

    session_id: UUID
    run_id: UUID
    epoch: int
    last: int


@dataclass(frozen=True, slots=True)
class MailPage:
    """Some of what waits, in order of arrival; `last` is the sequence up to which it was looked for."""

    signals: list[Signal]
    last: int
    more: bool


# Served by run_state_mail, which holds only the runs that a runner holds and that have signals waiting.
_MAIL: Final = """
SELECT l.session_id, s.run_id, l.epoch, s.mail_last
FROM run_state s JOIN lease l ON l.run_id = s.run_id
WHERE s.mail_waiting > 0 AND s.status IN (2, 4) AND l.session_id = ANY($1::uuid[])
"""

_WAITING: Final = """
SELECT run_id, signal_id, key, payload, urgent, sequence, found
FROM (
    SELECT m.*, count(*) OVER () AS found, sum(m.size) OVER (ORDER BY u.place, m.sequence) AS bytes,
           row_number() OVER (ORDER BY u.place, m.sequence) AS ordinal
    FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS u (run_id, after, place)
    CROSS JOIN LATERAL (
        SELECT * FROM mailbox w WHERE w.run_id = u.run_id AND w.sequence > u.after AND NOT w.consumed
        ORDER BY w.sequence LIMIT $3 + 1
    ) m
) sized
WHERE ordinal = 1 OR bytes <= $4
ORDER BY ordinal LIMIT $3
"""


async def mail(connection: Connection, session_ids: Sequence[UUID]) -> list[Mail]:
    """Return the runs these sessions hold that have signals waiting."""
    return [Mail(*row.values()) for row in await connection.fetch(_MAIL, list(session_ids))]


async def waiting(connection: Connection, after: Sequence[tuple[UUID, int]]) -> tuple[list[Signal], bool]:
    """Return what waits in mailboxes beyond the sequences given, in order run by run, and if there is more.

    A page at most, but at least one if there is one: ask again for what is left out.
    """
    rows = await connection.fetch(
        _WAITING, [run_id for run_id, _ in after], [last for _, last in after], PAGE_SIGNALS, PAGE_BYTES
    )
    signals = [Signal(*tuple(row)[:-1]) for row in rows]
    return signals, bool(rows) and rows[0]["found"] > len(rows)


async def load_mail(db: Database, run_id: UUID, epoch: int) -> AsyncIterator[MailPage]:
    """Yield what waits in the mailbox of a leased run, for the holder of its lease; at least one page.

    What arrives meanwhile has a higher sequence than the page's `last` and is left out. Borrows a connection
    per page. Raises `RunNotFound`, and `Fenced` if the lease has ended, also between pages.
    """
    after, end = 0, None
    while True:
        async with db.connection() as connection:
            last: int = (await held(connection, run_id, epoch))["mail_last"]
            end = last if end is None else end
            found, more = await waiting(connection, [(run_id, after)]) if end else ([], False)
        signals = [signal for signal in found if signal.sequence <= end]
        more = more and len(signals) == len(found)
        after = signals[-1].sequence if signals else end
        yield MailPage(signals, end, more)
        if not more:
            return
