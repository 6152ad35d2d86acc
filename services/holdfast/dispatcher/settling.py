"""What came of calls is gathered and written together; nothing is forgotten while the ledger is away."""

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from holdfast.dispatcher.breaker import judge
from holdfast.kit.db import Database
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.outbox_settle import Settlement, settle

_log: Final = logger("settling")
_GROUP: Final = 256


class Settling:
    """A line of outcomes, each under the session whose lease it ends."""

    def __init__(self, db: Database, on_settled: Callable[[Sequence[Settlement]], None]) -> None:
        self._db = db
        self._on_settled = on_settled
        self._line: deque[tuple[uuid.UUID, Settlement]] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, session_id: uuid.UUID, settlement: Settlement) -> None:
        """Put an outcome into the line."""
        self._line.append((session_id, settlement))

    async def settle_some(self) -> int:
        """Write the next outcomes of one session, in one transaction; if that fails they stay in the line.

        They may be written all the same; then writing them again changes nothing.
        """
        if not self._line:
            return 0
        session_id = self._line[0][0]
        group: list[Settlement] = []
        while self._line and self._line[0][0] == session_id and len(group) < _GROUP:
            group.append(self._line.popleft()[1])
        try:
            settled = await settle(self._db, session_id, group, judge)
        except BaseException:
            self._line.extendleft((session_id, settlement) for settlement in reversed(group))
            raise
        if len(settled) < len(group):
            # Sent, but by then the lease was lost: whoever has it now says what came of the effect.
            _log.warning(
                "outcomes came too late", session_id=str(session_id), count=len(group) - len(settled)
            )
        self._on_settled(group)
        return len(group)
