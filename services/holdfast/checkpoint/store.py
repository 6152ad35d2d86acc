"""A stored group is told to those who wait: which pools got work, which runs left their runner."""

from collections.abc import Sequence

from holdfast.ledger.notice import ENDED, READY, Notices

from holdfast.kit.db import Database
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, CommitResult, Stored


class Storing:
    """Stores groups and sends the notices they cause; notices are hints, so their loss harms nothing."""

    def __init__(self, db: Database, notices: Notices) -> None:
        self._db = db
        self._notices = notices

    async def __call__(self, items: Sequence[CommitItem]) -> list[CommitResult]:
        """Store a group and answer each of its commits; as `commit_group`."""
        results = await commit_group(self._db, items, on_ready=self._ready)
        for item, result in zip(items, results, strict=True):
            if item.move is not None and isinstance(result, Stored):
                self._notices.send(ENDED, str(item.run_id))
        return results

    def _ready(self, pool: str) -> None:
        self._notices.send(READY, pool)
