"""Notices are hints that something happened; whoever misses one finds out by looking, at most a second later.

They are sent coalesced, what comes alone at once and what follows within milliseconds together, and not
inside a hot transaction: a NOTIFY takes a lock over the whole database when its transaction commits. Only a
run that ends alone is told of by the statement that ends it (`commit_move`).
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from holdfast.kit.db import Database
from holdfast.kit.errors import LedgerUnavailable

READY: Final = "holdfast_ready"
"""Pools that got work."""
ENDED: Final = "holdfast_ended"
"""Runs that ended, were parked, went back to the queue or moved to the background."""
APPROVAL: Final = "holdfast_approval"
"""Tenants of which approvals have changed."""
MAIL: Final = "holdfast_mail"
"""Runs that were sent a signal by another service than an Invoker."""
EFFECT: Final = "holdfast_effect"
"""Destinations for which effects were staged."""

_PAUSE_S: Final = 0.005
_MOST_BYTES: Final = 7_900  # PostgreSQL refuses 8,000
_MOST_KEYS: Final = 10_000
_SEPARATOR: Final = "\n"
_SEND: Final = (
    "SELECT pg_notify(u.channel, u.payload) FROM unnest($1::text[], $2::text[]) AS u (channel, payload)"
)


class Notices:
    """Sends keys per channel: the first at once, those of the next few milliseconds together."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[str, dict[str, None]] = {}
        self._flush: asyncio.Task[None] | None = None

    def send(self, channel: str, keys: Iterable[object]) -> None:
        """Send soon; a key that waits already is sent once. Never blocks, never raises.

        While the ledger is away keys are dropped: who waits for them polls.
        """
        waiting = self._waiting.setdefault(channel, {})
        for key in keys:
            if len(waiting) < _MOST_KEYS:
                waiting[str(key)] = None
        if waiting and self._flush is None:
            self._flush = asyncio.create_task(self._soon(), name="notices")

    async def close(self) -> None:
        """Send what waits and end; repeatable."""
        if self._flush is not None:
            await self._flush

    async def _soon(self) -> None:
        try:
            while any(self._waiting.values()):
                waiting, self._waiting = self._waiting, {}
                await self._notify([(c, p) for c, keys in waiting.items() for p in payloads(keys)])
                await asyncio.sleep(_PAUSE_S)
        finally:
            self._flush = None

    async def _notify(self, notices: list[tuple[str, str]]) -> None:
        try:
            async with self._db.connection() as connection:
                await connection.execute(_SEND, [c for c, _ in notices], [p for _, p in notices])
        except LedgerUnavailable:
            return  # hints only


def payloads(keys: Iterable[str]) -> list[str]:
    """Join keys into as few payloads as fit; a key too long for one alone is left out."""
    joined: list[str] = []
    lines: list[str] = []
    size = 0
    for key in keys:
        length = len(key.encode()) + 1
        if length > _MOST_BYTES:
            continue
        if size + length > _MOST_BYTES:
            joined.append(_SEPARATOR.join(lines))
            lines, size = [], 0
        lines.append(key)
        size += length
    return [*joined, _SEPARATOR.join(lines)] if lines else joined


def keys_of(payload: str) -> list[str]:
    """Return the keys of a payload; none for the empty one a listener begins with: look at everything."""
    return payload.split(_SEPARATOR) if payload else []
