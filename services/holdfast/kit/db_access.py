"""What a verb needs of its way to the ledger: a connection, a transaction, another try.

A way is the whole pool (`db.Database`), or one place in it that a loop keeps (`db.Seat`).
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError

from holdfast.kit.db_faults import REPEATABLE, is_connection_error, sqlstate
from holdfast.kit.errors import LedgerUnavailable

T = TypeVar("T")
Connection = Any  # asyncpg publishes no types; what is borrowed is an `asyncpg.Connection`


class Access(ABC):
    """A way to one PostgreSQL database."""

    @abstractmethod
    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Have a connection for the block; each statement on it is its own transaction.

        What means that the database failed is raised as `LedgerUnavailable`, and the connection is thrown
        away. If it failed during a write, the outcome is unknown.
        """

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Borrow a connection inside a READ COMMITTED transaction, which any exception rolls back.

        A cancellation that arrives during COMMIT waits for its outcome; the work may be committed although
        the caller sees `CancelledError`.
        """
        async with self.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            except BaseException as error:
                if not is_gone(connection) and not fell_silent(error):
                    await _to_its_end(_rolled_back(transaction, connection))
                raise
            await _to_its_end(transaction.commit())

    async def retrying(self, work: Callable[[], Awaitable[T]], *, attempts: int = 5) -> T:
        """Run `work` (whole transactions) again on a serialization failure or a deadlock.

        Pauses with full jitter, from 10 ms, doubling. After the last attempt raises `LedgerUnavailable`.
        """
        for attempt in range(1, attempts):
            try:
                return await work()
            except (asyncpg.PostgresError, DBAPIError, LedgerUnavailable) as error:
                if sqlstate(error) not in REPEATABLE:
                    raise
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - spreads load, keeps no secret
        return await work()


async def _rolled_back(transaction: Any, connection: Any) -> None:
    try:
        await transaction.rollback()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()  # the exception that led here is the one to raise


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end even if this task is cancelled meanwhile; the cancellation follows."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller gets
        raise


def is_gone(connection: Any) -> bool:
    """Say whether the connection has ended; the pool takes one that has away from its borrower."""
    try:
        closed: bool = connection.is_closed()
    except asyncpg.InterfaceError:
        return True
    return closed


def is_broken(error: Exception, connection: Any) -> bool:
    """Say whether an error means that a connection which still seems to live is of no more use."""
    if is_gone(connection) or isinstance(error, LedgerUnavailable):
        return False
    return not isinstance(error, OSError) and is_connection_error(error)


def fell_silent(error: BaseException) -> bool:
    """Say whether the driver itself gave up waiting for an answer; other timeouts are not the database's."""
    at = error.__traceback__ if isinstance(error, TimeoutError) else None
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and str(at.tb_frame.f_globals.get("__name__", "")).startswith("asyncpg.")
