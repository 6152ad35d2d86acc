"""An intent that no runner has ever served is refused at the door, with the list of those that are."""

import asyncio

from holdfast.kit.db import Database
from holdfast.kit.errors import UnknownIntent
from holdfast.ledger.inspect import known_intents

MAX_NAMED_BYTES = 1500


class Intents:
    """The intents that have been served, remembered. A miss looks; those that miss at once look together."""

    def __init__(self, db: Database, *, queue_unknown: bool) -> None:
        self._db = db
        self._queue_unknown = queue_unknown
        self._known: frozenset[str] = frozenset()
        self._looks = 0
        self._looking = asyncio.Lock()

    async def check(self, intent: str) -> None:
        """Raise UnknownIntent if no runner has ever served this intent, unless such runs are queued."""
        if intent in self._known or self._queue_unknown:
            return
        await self._look()
        if intent not in self._known:
            raise UnknownIntent(
                f"No runner has ever served the intent {intent!r}.",
                facts={"intent": intent, "known": self._named()},
            )

    def add(self, intents: list[str]) -> None:
        """Remember intents that a runner serves here."""
        self._known |= frozenset(intents)

    async def _look(self) -> None:
        """Read the intents; a read that began after this call is as good as one of its own."""
        before = self._looks
        async with self._looking:
            if self._looks > before + 1:  # the one in progress may be older than the question
                return
            async with self._db.connection() as connection:
                self._known |= await known_intents(connection)
            self._looks += 1

    def _named(self) -> str:
        named = ""
        for intent in sorted(self._known):
            if len(named) + len(intent) > MAX_NAMED_BYTES:
                return named + ", …"
            named += f", {intent}" if named else intent
        return named
