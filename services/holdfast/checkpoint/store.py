"""A stored group is told to those who wait: pools with work, runs that left their runner, effects."""

from collections.abc import Sequence
from uuid import UUID

from holdfast.kit.db import Access
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, CommitResult, Stored
from holdfast.ledger.notice import EFFECT, ENDED, MAIL, READY, Notices


class Storing:
    """Stores groups and sends the notices they cause; notices are hints, so their loss harms nothing."""

    def __init__(self, db: Access, notices: Notices) -> None:
        self._db = db
        self._notices = notices

    async def __call__(self, items: Sequence[CommitItem]) -> list[CommitResult]:
        """Store a group and answer each of its commits; as `commit_group`."""
        results = await commit_group(self._db, items, on_ready=self._ready, on_mail=self._mail)
        for item, result in zip(items, results, strict=True):
            if item.is_plain or not isinstance(result, Stored):
                continue
            if (item.move is not None or item.handoff) and not result.told:
                self._notices.send(ENDED, (item.run_id,))
            if item.effects:
                self._notices.send(EFFECT, {effect.destination for effect in item.effects})
        return results

    def _ready(self, pool: str) -> None:
        self._notices.send(READY, (pool,))

    def _mail(self, run_id: UUID) -> None:
        self._notices.send(MAIL, (run_id,))
