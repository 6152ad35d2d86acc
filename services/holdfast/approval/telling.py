"""What has changed is told to those who go on with it, and what is due is brought: hints, and one loop."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from holdfast.kit.db import Database
from holdfast.kit.listener import Listener
from holdfast.kit.loops import Loop
from holdfast.ledger import approval_fire, approval_view
from holdfast.ledger.approval_change import Changed
from holdfast.ledger.notice import APPROVAL, EFFECT, MAIL, READY, Notices, keys_of

DUE_SECONDS = 1.05


class Telling:
    """Says that runs wake and that signals wait; brings what is due: reminders, escalations, timeouts."""

    def __init__(self, db: Database, notices: Notices) -> None:
        self._db = db
        self._notices = notices
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._seen: dict[str, int] = {}
        self.loop = Loop("approvals", self.fire, interval=DUE_SECONDS, max_backoff=DUE_SECONDS)

    def changed(self, changes: Iterable[Changed]) -> None:
        """Pass on what verbs have changed."""
        for change in changes:
            self._notices.send(READY, change.pools)
            self._notices.send(MAIL, change.decided)
            self._notices.send(EFFECT, change.destinations)
            if change.tenant:
                self._notices.send(APPROVAL, (change.tenant,))
                self._hint(change.tenant)

    def listen(self) -> Listener:
        """Hear of what other processes change, until the listener is closed."""
        return self._db.listen({APPROVAL: self._heard})

    @contextmanager
    def watching(self, tenant: str) -> Iterator[asyncio.Event]:
        """Hold an event that is set whenever an approval of the tenant may have changed."""
        event = asyncio.Event()
        watchers = self._waiting.setdefault(tenant, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self._waiting.pop(tenant, None)

    def _heard(self, payload: str) -> None:
        for tenant in keys_of(payload) or tuple(self._waiting):
            self._hint(tenant)

    def _hint(self, tenant: str) -> None:
        for event in self._waiting.get(tenant, ()):
            event.set()

    async def fire(self) -> int:
        """Bring what is due, and look after lost hints for all who watch; return how much was looked at."""
        looked, changes = await approval_fire.fire(self._db)
        self.changed(changes)
        await self._look()
        return looked

    async def _look(self) -> None:
        """Wake those who watch a tenant that has changed since the last look."""
        if not self._waiting:
            self._seen.clear()
            return
        async with self._db.connection() as connection:
            seen = await approval_view.last_changes(connection, list(self._waiting))
        for tenant, change in seen.items():
            if self._seen.get(tenant) != change:
                self._hint(tenant)
        self._seen = seen
