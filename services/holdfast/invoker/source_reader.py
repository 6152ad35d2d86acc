"""Reads the items of batches from their sources: a few sources at a time, each by one Invoker at a time.

Woken by batches that are made, and by the look of the `Caretaker`. What fails is tried again after a pause
that doubles up to a minute, for as long as the batch is UPLOADING, which says why. A chunk is stored with the
key that it ends at, so an Invoker that dies leaves nothing half done, and another goes on behind it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

from holdfast.invoker.batch_spec import read_items, room_of
from holdfast.invoker.item_source import ItemSource, ItemSources
from holdfast.kit import crash_point
from holdfast.kit.db import Database
from holdfast.kit.errors import Fault, InvalidField
from holdfast.kit.loops import Loop
from holdfast.kit.rpc.payload import value_of
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import batch_source
from holdfast.ledger.batch import NewItem
from holdfast.ledger.batch_source import HOLD, Turn
from holdfast.ledger.source_rows import Row, SourceUnreadableError, reading
from holdfast.v1 import batch_pb2

AT_ONCE: Final = 4
"""Sources that one Invoker reads at a time."""
CHUNK: Final = 100
"""Rows that are held at once, each of up to a megabyte, and stored in one transaction."""
UNASKED_S: Final = 30.0
LONGEST_PAUSE_S: Final = 60.0

_log: Final = logger("sources")


class SourceReader:
    """The loop of an Invoker that reads sources; `ready` is told that a batch may have begun to run."""

    def __init__(self, db: Database, sources: ItemSources, ready: Callable[[], None]) -> None:
        self._db = db
        self._sources = sources
        self._ready = ready
        self._turns: dict[UUID, asyncio.Task[None]] = {}
        self.loop = Loop("sources", self.run_once, interval=UNASKED_S, max_backoff=1.0, eager=False)
        self.holding = Loop("source turns", self.hold, interval=HOLD.total_seconds() / 4)

    async def run_once(self) -> int:
        """Begin to read what is to be read, as far as there is room; returns how many sources."""
        room = AT_ONCE - len(self._turns)
        if room <= 0:
            return 0
        taken = await batch_source.take(self._db, room)
        for turn in taken:
            self._turns[turn.turn] = asyncio.create_task(self._have(turn), name="source")
        return len(taken)

    async def hold(self) -> int:
        """Keep the turns that are being had: a statement of the source's may take longer than `HOLD`."""
        if self._turns:
            await batch_source.hold(self._db, list(self._turns))
        return 0

    async def close(self) -> None:
        """Stop reading, and let others go on at once."""
        turns, tasks = list(self._turns), list(self._turns.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if turns:
            with suppress(Fault):
                await batch_source.leave(self._db, turns)

    async def _have(self, turn: Turn) -> None:
        try:
            await self._read(turn)
        except Exception as error:  # noqa: BLE001 - whatever it is, the source is tried again
            await self._failed(turn, error)
        finally:
            del self._turns[turn.turn]
            self.loop.wake()

    async def _read(self, turn: Turn) -> None:
        spec = batch_pb2.BatchSpec.FromString(turn.spec)
        source, query = self._sources.query(spec.source, turn.tenant)
        room, stored = room_of(spec), turn.uploaded
        async with reading(query, turn.last_key) as rows:
            while chunk := await rows.next(CHUNK):
                stored += len(chunk)
                if stored > source.max_items:
                    raise SourceUnreadableError(f"The source has more than {source.max_items:,} rows.")
                items = [_item(source, row, room) for row in chunk]
                if not await batch_source.store(self._db, turn, items, chunk[-1].key):
                    return
                crash_point.reach("invoker.source_stored")
        if await batch_source.finish(self._db, turn):
            _log.info("source read", source=source.name, batch_id=str(turn.batch_id), items=stored)
            self._ready()

    async def _failed(self, turn: Turn, error: Exception) -> None:
        known = error if isinstance(error, SourceUnreadableError | Fault) else None
        why = str(known) if known is not None else f"The source cannot be read ({type(error).__name__})."
        pause = min(LONGEST_PAUSE_S, 2.0 ** min(turn.failures, 10))
        _log.warning(
            "source not read",
            error_text=str(error.__cause__ or error),
            batch_id=str(turn.batch_id),
            tenant=turn.tenant,
            pause_s=pause,
        )
        with suppress(Fault):  # it is as if this Invoker had fallen silent
            await batch_source.put_off(self._db, turn, why[:1000], timedelta(seconds=pause))


def _item(source: ItemSource, row: Row, room: int) -> NewItem:
    """Return the item of a row, checked as one that is sent."""
    columns = dict(row.columns)
    item = batch_pb2.BatchInput(key=row.key)
    if source.current:
        if source.current not in columns:
            raise SourceUnreadableError(f"A row has no {source.current!r}, which is to be what is there now.")
        item.current.CopyFrom(value_of(columns.pop(source.current)))
    try:
        item.payload.CopyFrom(value_of(columns).struct_value)
        return read_items([item], room=room)[0]
    except InvalidField as fault:
        why = f"{row.key[:255]!r} cannot be an item: it {fault.violations[0].description}"
        raise SourceUnreadableError(f"The row of the key {why}.") from fault
