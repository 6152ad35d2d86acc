"""Which exceptions mean that the database failed, in one place, and what a client hears of it."""

from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from holdfast.kit.errors import Fault, LedgerUnavailable

_SERIALIZATION_FAILURE: Final = "40001"
_DEADLOCK: Final = "40P01"
REPEATABLE: Final = frozenset({_SERIALIZATION_FAILURE, _DEADLOCK})
# 57P01-57P05: the server ends or starts; 53300: it has no connection left; 25P03, 25P04: it ended ours.
_SERVER_GONE: Final = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "53300", "25P03", "25P04"})
# 57014: statement_timeout; 55P03: lock_timeout; 53xxx is the class of a server without memory or disk.
_SERVER_BUSY: Final = frozenset({"57014", "55P03", "53000", "53100", "53200", "53400"})


def is_connection_error(error: BaseException) -> bool:
    """Say whether an exception means that the database or the way to it failed, and not the statement."""
    if isinstance(error, LedgerUnavailable | PoolTimeoutError):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or any(is_connection_error(cause) for cause in _causes(error))
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith("08") or state in _SERVER_GONE
    if isinstance(error, asyncpg.InterfaceError):
        # ValueErrors among them (a bad argument or URL) and a connection shared by two tasks are our bugs.
        return not isinstance(error, ValueError) and "another operation" not in str(error)
    return isinstance(error, asyncpg.InternalClientError | OSError | EOFError)


def as_fault(error: BaseException) -> Fault | None:
    """Return the `LedgerUnavailable` that a database failure means to a client; None for anything else."""
    if isinstance(error, LedgerUnavailable):
        return error
    if isinstance(error, TimeoutError):
        return None  # not every timeout is the database's; those of the pool are translated where they happen
    if is_connection_error(error):
        return LedgerUnavailable("The ledger cannot be reached; repeat the call.", retry_after=1.0)
    if sqlstate(error) in _SERVER_BUSY:
        return LedgerUnavailable("The ledger did not answer in time; repeat the call.", retry_after=1.0)
    if sqlstate(error) in REPEATABLE:
        return LedgerUnavailable("The ledger is contended; repeat the call.", retry_after=0.1)
    return None


def _causes(error: DBAPIError) -> list[BaseException]:
    found = [error.orig, getattr(error.orig, "__cause__", None), error.__cause__]
    return [cause for cause in found if cause is not None and cause is not error]


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an asyncpg error, also inside of what SQLAlchemy or we made of it."""
    seen: BaseException | None = error
    while seen is not None:
        state = getattr(seen, "sqlstate", None)
        if isinstance(state, str):
            return state
        seen = getattr(seen, "orig", None) or seen.__cause__
    return None
