"""How far batches are, read once for all of a process that follow the same one."""

import asyncio
import time
from collections import OrderedDict
from contextvars import Context
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.invoker.batch_message import batch_message, progress_message
from holdfast.kit.db import Database
from holdfast.ledger import batch_view
from holdfast.ledger.domain.batch import is_over
from holdfast.v1 import batch_service_pb2 as pb

KEPT: Final = 1000
"""Batches whose last reading is remembered."""

Key = tuple[str, UUID]


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch and how far it was at a moment, and whether it was over: nothing of it is still to arrive."""

    time: float
    message: pb.WatchBatchResponse
    over: bool


class Progress:
    """Readings of batches: a crowd that follows one costs what two who follow it do."""

    def __init__(self, db: Database, *, token_price: float = 0.0) -> None:
        self._db = db
        self._token_price = token_price
        self._last: OrderedDict[Key, Reading] = OrderedDict()
        self._reading: dict[Key, asyncio.Task[Reading]] = {}

    async def now(self, tenant: str, batch_id: UUID) -> Reading:
        """Read a batch and how far it is. Raises `BatchNotFound`."""
        return await self._read((tenant, batch_id))

    async def lately(self, tenant: str, batch_id: UUID, *, within: float) -> Reading:
        """Return a reading at most `within` seconds old, made by whoever asked first; not to be changed."""
        key = (tenant, batch_id)
        last = self._last.get(key)
        if last is not None and time.monotonic() - last.time <= within:
            return last
        task = self._reading.get(key)
        if task is None:
            # In a context of its own: it answers others than the call that asked first.
            task = asyncio.create_task(self._read(key), name="batch-progress", context=Context())
            self._reading[key] = task
            task.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(task)

    async def _read(self, key: Key) -> Reading:
        tenant, batch_id = key
        began = time.monotonic()
        async with self._db.connection() as connection:
            batch = await batch_view.get(connection, tenant, batch_id)
            progress = await batch_view.progress(connection, batch)
        message = pb.WatchBatchResponse(
            batch=batch_message(batch), progress=progress_message(batch, progress, self._token_price)
        )
        over = is_over(batch.status, progress.counts, batch.undoing)
        reading = self._last[key] = Reading(began, message, over)
        self._last.move_to_end(key)
        if len(self._last) > KEPT:
            self._last.popitem(last=False)
        return reading

    def _over(self, key: Key, task: "asyncio.Task[Reading]") -> None:
        self._reading.pop(key, None)
        if not task.cancelled():
            task.exception()  # its askers have heard it, or have all left
