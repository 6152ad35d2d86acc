"""An intent that no runner has ever served is refused at the door, with the list of those that are."""

import time

from holdfast.kit.db import Database
from holdfast.kit.errors import UnknownIntent
from holdfast.ledger.inspect import known_intents

FRESH_SECONDS = 1.0
MAX_NAMED_BYTES = 1500


class Intents:
    """The intents that have been served, remembered; a miss looks once a second at most."""

    def __init__(self, db: Database, *, queue_unknown: bool) -> None:
        self._db = db
        self._queue_unknown = queue_unknown
        self._known: frozenset[str] = frozenset()
        self._looked = float("-inf")

    async def check(self, intent: str) -> None:
        """Raise UnknownIntent if no runner has ever served this intent, unless such runs are queued."""
        if intent in self._known or self._queue_unknown:
            return
        if time.monotonic() - self._looked > FRESH_SECONDS:
            async with self._db.connection() as connection:
                self._known = await known_intents(connection)
            self._looked = time.monotonic()
        if intent not in self._known:
            raise UnknownIntent(
                f"No runner has ever served the intent {intent!r}.", facts={"known": self._named()}
            )

    def add(self, intents: list[str]) -> None:
        """Remember intents that a runner serves here."""
        self._known |= frozenset(intents)

    def _named(self) -> str:
        named = ""
        for intent in sorted(self._known):
            if len(named) + len(intent) > MAX_NAMED_BYTES:
                return named + ", …"
            named += f", {intent}" if named else intent
        return named
