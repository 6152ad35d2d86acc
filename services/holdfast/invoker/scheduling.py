"""Schedules in this Invoker: fired when the look finds that their time has come, or when someone asks."""

from collections.abc import Sequence
from datetime import datetime

from holdfast.invoker.hints import Hints
from holdfast.invoker.refusals import Refusals
from holdfast.invoker.schedule_action import Starting
from holdfast.invoker.stopping import Stopping
from holdfast.kit.db import Database
from holdfast.kit.errors import ResourceExhausted
from holdfast.kit.loops import Loop
from holdfast.ledger import schedule_ask
from holdfast.ledger.domain.schedule import Overlap
from holdfast.ledger.schedule_fire import fire_due
from holdfast.ledger.schedule_row import Fire
from holdfast.ledger.schedule_start import CANCEL_REASON, Fired


class Scheduling:
    """Fires schedules, and passes on what that has moved; `batches` are the loops that look after batches."""

    def __init__(
        self,
        db: Database,
        hints: Hints,
        stopping: Stopping,
        refusals: Refusals,
        *,
        starting: Starting,
        batches: Sequence[Loop],
    ) -> None:
        self._db = db
        self._hints = hints
        self._stopping = stopping
        self._refusals = refusals
        self._starting = starting
        self._batches = batches

    async def fire(self) -> int:
        """Fire a round of the schedules whose time has come; return how many were looked after."""
        fired = await fire_due(self._db, self._starting)
        self._pass_on(fired)
        return fired.count

    async def trigger(self, tenant: str, name: str, *, key: str, overlap: Overlap | None) -> Fire:
        """Fire a schedule now; as `schedule_ask.trigger`."""
        try:
            fire, fired = await schedule_ask.trigger(
                self._db, tenant, name, self._starting, key=key, overlap=overlap
            )
        except ResourceExhausted as fault:
            self._refusals.note(tenant, fault)
            raise
        self._pass_on(fired)
        return fire

    async def backfill(
        self, tenant: str, name: str, start: datetime, end: datetime, *, dry_run: bool
    ) -> schedule_ask.Backfill:
        """Let times of the past fire; as `schedule_ask.backfill`."""
        return await schedule_ask.backfill(self._db, tenant, name, start, end, dry_run=dry_run)

    def _pass_on(self, fired: Fired) -> None:
        for run_id, cancelled in fired.cancelled:
            self._stopping.tell(run_id, cancelled, CANCEL_REASON)
        self._hints.queued(fired.pools)
        for loop in self._batches if fired.batches else ():
            loop.wake()
