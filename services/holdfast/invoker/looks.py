"""Where runs stand, asked by many at once and read in one query: a crowd costs what one does."""

import asyncio
from collections.abc import Iterator
from contextvars import Context
from uuid import UUID

from holdfast.kit.db import Database
from holdfast.ledger.position import Position, positions

Asked = dict[UUID, list["asyncio.Future[Position | None]"]]


class Looks:
    """Gathers questions while one query is under way; the next answers all of them.

    idle ──asked──▶ reading ──(more were asked meanwhile)──▶ reading ──▶ idle
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._asked: Asked = {}
        self._task: asyncio.Task[None] | None = None

    async def position(self, run_id: UUID) -> Position | None:
        """Return where a run stands, read after this was asked; None for a run there is not."""
        future: asyncio.Future[Position | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(run_id, []).append(future)
        if self._task is None:
            # In a context of its own: it answers others than the call that asked first.
            self._task = asyncio.create_task(self._answer(), name="looks", context=Context())
        return await future

    async def _answer(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                await self._read(asked)
        finally:
            self._task = None

    async def _read(self, asked: Asked) -> None:
        try:
            async with self._db.connection() as connection:
                found = await positions(connection, list(asked))
        except Exception as error:  # noqa: BLE001 - it is the answer to those who asked
            for future in _waiting(asked):
                future.set_exception(error)
        except BaseException:
            for future in _waiting(asked):
                future.cancel()
            raise
        else:
            for run_id, futures in asked.items():
                for future in _waiting({run_id: futures}):
                    future.set_result(found.get(run_id))


def _waiting(asked: Asked) -> Iterator["asyncio.Future[Position | None]"]:
    """Yield those whose asker has not left."""
    return (future for futures in asked.values() for future in futures if not future.done())
