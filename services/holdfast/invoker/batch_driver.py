"""Keeps batches moving: chunk after chunk of items becomes runs, as many at a time as each may have."""

import asyncio
import json
from typing import Final
from uuid import UUID

from holdfast.invoker.envelope import read_envelope
from holdfast.invoker.hints import Hints
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.kit.rpc.payload import value_of
from holdfast.ledger.batch_advance import Due, active, advance
from holdfast.ledger.values import Invocation
from holdfast.v1 import batch_pb2, run_pb2

IDLE_S: Final = 1.0
BUSY_S: Final = 0.05
"""Between two looks while a batch has items in flight: their ends make room."""
_FIRST: Final = UUID(int=0)


class BatchDriver:
    """The loop of an Invoker that does for batches what is next; any number of Invokers share the work."""

    def __init__(self, db: Database, hints: Hints, settings: InvokerSettings) -> None:
        self._db = db
        self._hints = hints
        self._max_attempts = settings.max_attempts
        self.loop = Loop("batches", self.run_once, interval=IDLE_S, max_backoff=IDLE_S, eager=False)

    async def run_once(self) -> int:
        """Do one step for each batch that is going on; returns how many items moved."""
        moved, going, after = 0, 0, _FIRST
        while True:
            async with self._db.connection() as connection:
                batches = await active(connection, after=after)
            for each in batches:
                done = await advance(self._db, each, self._compose)
                self._hints.queued(done.pools)
                moved += done.items
                going += not done.rests
                after = each.batch_id
            if not batches:
                break
        if going:
            asyncio.get_running_loop().call_later(0 if moved else BUSY_S, self.loop.wake)
        return moved

    def _compose(self, item: Due) -> Invocation:
        """Return the envelope of an item's run: what the spec says, with the item's payload over its own."""
        request = batch_pb2.BatchSpec.FromString(item.spec).invocation
        fields = request.payload.fields
        for name, value in json.loads(item.payload).items():
            fields[name].CopyFrom(value_of(value))
        request.priority = item.priority
        request.idempotency_key = f"batch/{item.batch_id}/{item.index}/{item.attempt}"
        request.correlation_id = request.correlation_id or str(item.batch_id)
        return read_envelope(
            request, tenant=item.tenant, shape=run_pb2.SHAPE_BATCH, max_attempts=self._max_attempts
        )
