"""What there is to scale by, read at most once a second for all who ask, and not at all while nobody does."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from holdfast.kit.db import Database
from holdfast.kit.errors import TooManyCalls
from holdfast.ledger.demand import Backlog, Question, backlogs
from holdfast.ledger.values import intent_of

FRESH_S: Final = 1.0
"""How old an answer may be, and how often at most the ledger is asked."""
REMEMBERED_S: Final = 120.0
"""For so long what was asked once is read along with what others ask."""
MOST_ASKED: Final = 2000
"""Of as many intents is asked at once, of all questions together; a question beyond it is refused."""


class Watch:
    """Waits for work to come for one question."""

    def __init__(self, question: Question) -> None:
        self.closed = False
        self._question = question
        self._came = False
        self._changed = asyncio.Event()

    def takes(self, pool: str) -> bool:
        """Say whether runs of a pool are what it waits for, whatever their priority."""
        return intent_of(pool) in self._question.intents

    def come(self) -> None:
        """Note that work has come."""
        self._came = True
        self._changed.set()

    def close(self) -> None:
        """End the rest, and let nobody rest any more."""
        self.closed = True
        self._changed.set()

    async def rest(self, seconds: float, *, until_work: bool) -> bool:
        """Rest for some seconds, or until work has come since the last rest; return whether that ended it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.closed and not (until_work and self._came):
                    self._changed.clear()
                    await self._changed.wait()
        came, self._came = self._came, False
        return came and until_work and not self.closed


class Snapshot:
    """The answers to all that was asked lately, read together.

    asked ──(fresh)──▶ answered
      └──(older than a second, or never read)──▶ one read for everybody ──▶ answered
    """

    def __init__(self, db: Database) -> None:
        self.reads = 0
        self._db = db
        self._asked: dict[Question, float] = {}
        self._known: dict[Question, Backlog] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()
        self._watches: set[Watch] = set()

    async def backlog(self, question: Question, *, since: float = float("-inf")) -> Backlog:
        """Return what there is, as of a second ago at most, and of `since` (monotonic seconds) at least.

        Raises `LedgerUnavailable`, and `TooManyCalls` for a question beyond what is read at once.
        """
        while True:
            self._note(question)
            if self._fresh(question, since):
                return self._known[question]
            async with self._reading:
                if not self._fresh(question, since):
                    await self._read()

    def _note(self, question: Question) -> None:
        now = time.monotonic()
        if question not in self._asked:
            self._asked = {each: at for each, at in self._asked.items() if at > now - REMEMBERED_S}
            if sum(len(each.intents) for each in (*self._asked, question)) > MOST_ASKED:
                raise TooManyCalls(
                    "Those who scale runners ask of as many intents as are read at once.",
                    facts={"limit": str(MOST_ASKED)},
                    quota="scaled_intents",
                    retry_after=REMEMBERED_S,
                )
        self._asked[question] = now

    def _fresh(self, question: Question, since: float) -> bool:
        """Say whether the answer known will do."""
        return question in self._known and self._read_at > max(since, time.monotonic() - FRESH_S)

    async def _read(self) -> None:
        await asyncio.sleep(self._tried_at + FRESH_S - time.monotonic())
        self._tried_at = now = time.monotonic()
        questions = [question for question, at in self._asked.items() if at > now - REMEMBERED_S]
        async with self._db.connection() as connection:
            self._known = await backlogs(connection, questions)
        self._read_at = now
        self.reads += 1

    @contextmanager
    def watching(self, question: Question) -> Iterator[Watch]:
        """Let the block hear of work that comes for a question."""
        watch = Watch(question)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def queued(self, pools: Sequence[str]) -> None:
        """Say that runs wait in these pools now."""
        for watch in self._watches:
            if any(watch.takes(pool) for pool in pools):
                watch.come()

    def close(self) -> None:
        """End the watches: who watches finds another Invoker. Repeatable."""
        for watch in self._watches:
            watch.close()
