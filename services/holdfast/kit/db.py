"""A bounded pool of connections to the ledger, whose failures come out as `LedgerUnavailable`.

The hot verbs use asyncpg connections with prepared statements; composed cold queries use SQLAlchemy Core
over the same driver. Nothing outlives a borrowed connection: session settings are fixed when it is opened, so
a verb that needs another one says `SET LOCAL`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, Self

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from holdfast.kit.db_access import Access, Connection, fell_silent, is_broken, is_gone
from holdfast.kit.db_faults import as_fault, is_connection_error
from holdfast.kit.errors import Fault, LedgerUnavailable
from holdfast.kit.listener import Listener

__all__ = ["Access", "Connection", "Database", "Seat", "as_fault", "is_connection_error"]

_LIMITS_TRANSACTIONS: Final = (17,)
_PLANS_LIVE: Final = 2.0
_PLANS_USED: Final = 50
"""Uses of a connection before its plans are made anew: one that is hardly used would do little else."""
_PLANS_FORGOTTEN: Final = 600.0
_FORGET_PLANS: Final = "DISCARD PLANS"


class Database(Access):
    """One process's way to one PostgreSQL database. Made by `connect`, ended by `close`."""

    def __init__(
        self, url: str, pool: Any, connect: Callable[[], Awaitable[Any]], acquire_timeout: float
    ) -> None:
        self.url = url
        self._pool = pool
        self._connect = connect
        self._acquire_timeout = acquire_timeout
        self._engine: AsyncEngine | None = None
        self._planned: dict[int, tuple[float, int]] = {}
        self._seats: list[Seat] = []

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        application_name: str,
        role_name: str | None = None,
        server_settings: Mapping[str, str] = MappingProxyType({}),
        pool_size: int = 10,
        statement_timeout: float = 10.0,
        lock_timeout: float = 5.0,
        idle_in_transaction_timeout: float = 10.0,
        acquire_timeout: float = 5.0,
    ) -> Self:
        """Open a pool; timeouts are seconds. Raises `LedgerUnavailable` if no connection can be made.

        A transaction lasts at most as long as `statement_timeout` and `idle_in_transaction_timeout` together,
        where the server knows such a limit (PostgreSQL 17 on). `url` is `postgresql://…` (a unix socket by
        `?host=/directory`). With `role_name` every connection acts under that role, to which the URL's user
        must belong. `server_settings` hold for every connection, beside ours.
        """
        settings = {
            **server_settings,
            "application_name": application_name,
            "statement_timeout": _milliseconds(statement_timeout),
            "lock_timeout": _milliseconds(lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(idle_in_transaction_timeout),
            "timezone": "UTC",
        }
        if role_name is not None:
            settings["role"] = role_name
        options: dict[str, Any] = {
            "dsn": url.replace("postgresql+asyncpg://", "postgresql://", 1),
            "server_settings": settings,
            "timeout": acquire_timeout,
            # A server that lives ends a statement before this; the way to it may be gone without a word.
            # Sooner than clients give up (15 s), so that they hear UNAVAILABLE.
            "command_timeout": statement_timeout + 1.0,
            "statement_cache_size": 500,
            "max_cached_statement_lifetime": 0,  # a hot statement stays prepared
            "max_cacheable_statement_size": 64 * 1024,
        }

        limit = f"SET transaction_timeout = {_milliseconds(statement_timeout + idle_in_transaction_timeout)}"

        async def end_transactions(connection: Any) -> None:
            # asyncpg parses a new statement in one message and binds it in the next. Who is frozen between
            # them is neither idle nor executing to PostgreSQL: only this limit lets go of the locks it has.
            if connection.get_server_version() >= _LIMITS_TRANSACTIONS:
                await connection.execute(limit)

        async def connection() -> Any:
            made = await asyncpg.connect(**options)
            await end_transactions(made)
            return made

        pool = asyncpg.create_pool(
            **options,
            min_size=1,
            max_size=pool_size,
            max_queries=1_000_000,
            init=end_transactions,
            reset=_leave_clean,
        )
        try:
            await pool
        except Exception as error:
            pool.terminate()
            if isinstance(error, TimeoutError) or as_fault(error) is not None:
                raise LedgerUnavailable("The ledger cannot be reached.", retry_after=1.0) from error
            raise
        return cls(url, pool, connection, acquire_timeout)

    async def close(self, *, grace: float = 5.0) -> None:
        """Give back all connections; those still in use after `grace` seconds are cut. Repeatable."""
        if self._engine is not None:
            await self._engine.dispose()
        try:
            async with asyncio.timeout(grace):
                for seat in self._seats:
                    await seat.leave()
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection, as `Access` says; waits at most `acquire_timeout` for a free one."""
        connection = await self._borrow()
        try:
            if self._has_old_plans(connection):
                await connection.execute(_FORGET_PLANS)
            yield connection
        except Exception as error:
            fault = await self._judge(error, connection)
            if fault is error:
                raise
            raise fault from error
        finally:
            await self._give_back(connection)

    def seat(self) -> "Seat":
        """Return a way that keeps its connection, for a loop that comes again and again; ended by `close`."""
        seat = Seat(self)
        self._seats.append(seat)
        return seat

    @property
    def pool_size(self) -> int:
        """How many connections there may be at most."""
        size: int = self._pool.get_max_size()
        return size

    @property
    def pool_used(self) -> int:
        """How many are borrowed or kept by a seat now."""
        used: int = self._pool.get_size() - self._pool.get_idle_size()
        return used

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy engine for composed cold queries, with a small pool of its own."""
        if self._engine is None:
            self._engine = create_async_engine(
                "postgresql+asyncpg://",
                async_creator=self._connect,
                pool_size=2,
                max_overflow=2,
                pool_timeout=self._acquire_timeout,
                pool_pre_ping=True,
                isolation_level="AUTOCOMMIT",
            )
        return self._engine

    @asynccontextmanager
    async def query(self) -> AsyncIterator[AsyncConnection]:
        """Borrow an SQLAlchemy connection (autocommit) for a query; failures as with `connection`."""
        try:
            async with self.engine.connect() as connection:
                yield connection
        except (DBAPIError, PoolTimeoutError, OSError) as error:
            if fell_silent(error) and self._engine is not None:
                silent, self._engine = self._engine, None
                await silent.dispose(close=False)  # they cannot say goodbye
                raise _silence() from error
            fault = _translated(error)
            if fault is error:
                raise
            raise fault from error

    def listen(self, callbacks: Mapping[str, Callable[[str], None]]) -> Listener:
        """Call a channel's callback with the payload of each NOTIFY on it, until the listener is closed.

        It has a connection of its own and makes a new one when that breaks. Whenever it starts to listen it
        calls each with an empty payload: notifications may have been missed, and whoever needs them looks
        once.
        """
        return Listener(self._connect, callbacks)

    def _has_old_plans(self, connection: Any) -> bool:
        """Say whether a connection's prepared statements are to be planned anew: every few seconds, if used.

        A prepared statement keeps its plan until the statistics of its tables change, which takes minutes. A
        plan made while a table was empty (read all of it, by whichever index) would cost more with each row.
        """
        now = time.monotonic()
        pid = connection.get_server_pid()
        at, used = self._planned.get(pid, (now, 0))
        if now - at < _PLANS_LIVE or used < _PLANS_USED:
            self._planned[pid] = (at, used + 1)
            return False
        self._planned = {
            other: plans for other, plans in self._planned.items() if now - plans[0] < _PLANS_FORGOTTEN
        }
        self._planned[pid] = (now, 0)
        return True

    async def _borrow(self) -> Connection:
        try:
            return await self._pool.acquire(timeout=self._acquire_timeout)
        except TimeoutError as error:
            raise LedgerUnavailable(
                "The ledger has no free connection; repeat the call.", retry_after=1.0
            ) from error
        except Exception as error:
            raise _translated(error) from error

    async def _judge(self, error: Exception, connection: Connection) -> Exception:
        """Return what an error of a block is to its caller; a connection that it has spoilt is cut."""
        if fell_silent(error):  # then the others have most likely fallen silent too
            connection.terminate()
            await self._pool.expire_connections()
            return _silence()
        if is_broken(error, connection):
            connection.terminate()
        if isinstance(error, Fault):
            return error
        if isinstance(error, TimeoutError | OSError) and not is_gone(connection):
            return error  # not the database's
        return _translated(error)

    async def _give_back(self, connection: Any) -> None:
        try:
            await self._pool.release(connection, timeout=self._acquire_timeout)
        except Exception:  # noqa: BLE001 - the pool has thrown the connection away; the caller's outcome stands
            connection_lost = True
        else:
            connection_lost = False
        if connection_lost and not is_gone(connection):
            connection.terminate()


class Seat(Access):
    """One connection, kept between uses by one task at a time: a use costs no borrowing and no giving back.

    A connection that fails, or whose use is cancelled, goes back to the pool; the next use borrows another.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._kept: Connection | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Use the kept connection, as `Access` says."""
        if self._kept is not None and is_gone(self._kept):
            await self.leave()
        connection = self._kept = self._kept or await self._db._borrow()  # noqa: SLF001 - a part of it
        try:
            if self._db._has_old_plans(connection):  # noqa: SLF001
                await connection.execute(_FORGET_PLANS)
            yield connection
        except Exception as error:
            fault = await self._db._judge(error, connection)  # noqa: SLF001
            if fault is error:
                raise
            raise fault from error
        except BaseException:
            await self.leave()  # the pool waits for what was cancelled in the middle
            raise

    async def leave(self) -> None:
        """Give the connection back until the next use; repeatable."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await self._db._give_back(kept)  # noqa: SLF001


async def _leave_clean(_: Any) -> None:
    """Skip the round trip of RESET ALL: asyncpg has rolled back what was open, nothing else is set."""


def _silence() -> LedgerUnavailable:
    return LedgerUnavailable("The ledger does not answer; repeat the call.", retry_after=1.0)


def _translated(error: Exception) -> Exception:
    return as_fault(error) or error


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
