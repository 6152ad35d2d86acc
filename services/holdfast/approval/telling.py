"""What has changed is told to those who go on with it, and what is due is brought: hints, and one loop."""

from collections.abc import Iterable

from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.ledger import approval
from holdfast.ledger.approval import Changed
from holdfast.ledger.notice import MAIL, READY, Notices

DUE_SECONDS = 1.0


class Telling:
    """Says that runs wake and that signals wait; brings what is due: reminders, escalations, timeouts."""

    def __init__(self, db: Database, notices: Notices) -> None:
        self._db = db
        self._notices = notices
        self.loop = Loop("approvals", self.fire, interval=DUE_SECONDS, max_backoff=DUE_SECONDS)

    def changed(self, changes: Iterable[Changed]) -> None:
        """Pass on what verbs have changed."""
        for change in changes:
            self._notices.send(READY, change.pools)
            self._notices.send(MAIL, change.decided)

    async def fire(self) -> int:
        """Bring what is due; return how much was looked at."""
        looked, changes = await approval.fire(self._db)
        self.changed(changes)
        return looked
