"""Keeps batches moving whose items have ended: judged, applied and undone chunk by chunk."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from holdfast.invoker.batch_policy import follow_up, judging, undoes, undoing
from holdfast.invoker.hints import Hints
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.db import Database
from holdfast.kit.errors import LedgerUnavailable
from holdfast.kit.loops import Loop
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.batch_news import arrived, hear, judgement
from holdfast.ledger.batch_review import carry_out
from holdfast.ledger.batch_work import Composers, applying, work_on

UNASKED_S: Final = 30.0
"""Between two looks of its own: while there is something, the look of the caretaker wakes it."""
BUSY_S: Final = 0.05
"""Until the next look after something has moved, doubled each time nothing has."""
QUIET_S: Final = 1.0
"""A pause for which the look of the caretaker does as well."""
ANSWER_S: Final = 5.0
_FIRST: Final = UUID(int=0)

_log: Final = logger("batches")


class BatchApplier:
    """The loop of an Invoker that judges, applies and undoes; any number of Invokers share the work."""

    def __init__(self, db: Database, hints: Hints, settings: InvokerSettings) -> None:
        self._db = db
        self._hints = hints
        self._heard = 0
        self._pause = BUSY_S
        attempts = settings.max_attempts
        self._compose = Composers(
            lambda given: follow_up(given, max_attempts=attempts),
            lambda given: judging(given, max_attempts=attempts),
            lambda given: undoing(given, max_attempts=attempts),
            undoes,
        )
        self.loop = Loop("batch applying", self.run_once, interval=UNASKED_S, max_backoff=1.0, eager=False)

    async def run_once(self) -> int:
        """Hear what has arrived, then do one step for each batch; returns how much was done."""
        heard = await self._hear()
        moved, after = 0, _FIRST
        waits: list[float] = []
        while True:
            async with self._db.connection() as connection:
                batches = await applying(connection, after=after)
            for each in batches:
                with _alone(each.batch_id):
                    done = await work_on(self._db, each, self._compose)
                    self._hints.queued(done.pools)
                    moved += done.items
                    waits += [] if done.wait_s is None else [done.wait_s]
                after = each.batch_id
            if not batches:
                break
        self._pause = BUSY_S if moved or heard else min(QUIET_S, 2 * self._pause)
        if moved or self._heard:
            waits.append(0.0)
        elif self._pause < QUIET_S:
            waits.append(self._pause)
        if waits:
            self.loop.wake_within(min(waits))
        return moved + heard

    async def _hear(self) -> int:
        """Hear a page of what has arrived, from where the last one ended; returns how many notes."""
        found, self._heard = await arrived(self._db, self._heard)
        heard = 0
        for each in found:
            with _alone(each.batch_id):
                await hear(self._db, each, judgement)
                heard += len(each.notes)
        return heard

    async def judge_rest(self, tenant: str, batch_id: UUID) -> None:
        """Carry out what is to become of the rest of a batch, so that whoever asked for it sees it done.

        Of a very large batch what is left after a few seconds is left to the loop.
        """
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until and await carry_out(self._db, tenant, batch_id):
            pass
        self.loop.wake()


@contextmanager
def _alone(batch_id: UUID) -> Iterator[None]:
    """Do something for one batch: if it fails, the others go on."""
    try:
        yield
    except LedgerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one batch is no reason to stop the others
        _log.error("batch not applied", error=error, batch_id=str(batch_id))
