"""The rows of an operator's query, in order of their key, from behind a key on: each once, and read only.

One transaction is one reading: read-only, of one snapshot, through a cursor of the server's, so that neither
side holds more than a chunk of it. A reading that goes on behind a key is another snapshot: it has the rows
that are there then.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

CONNECT_S: Final = 10.0
IDLE_S: Final = 60.0
"""How long the database bears a reader that is silent in its transaction."""
_EXACT: Final = 2**53


class SourceUnreadableError(Exception):
    """The rows cannot be read, or not as items; the text is for callers, its cause for the operator's log."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of the operator's: `text` has $1, $2 … for `values`, each of which it casts from text.

    `key` is the column that the rows are known by, `timeout` in seconds for each statement.
    """

    url: str
    text: str
    key: str
    values: Sequence[str] = ()
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its key as text, and its columns as JSON has them; whole numbers beyond 2^53 are texts."""

    key: str
    columns: dict[str, Any]


_ONE: Final = "SELECT s.{key} FROM (\n{query}\n) s"

# A row that was stored already comes again, and is passed over: were it left out, another with its key might
# be too. NULLs come last.
_ROWS: Final = """
SELECT row_to_json(s)::text AS columns, s.{key}::text AS key, {stored} AS stored,
       (lag(s.{key}) OVER w = s.{key}) IS TRUE AS twice
FROM (
{query}
) s
WHERE {behind}
WINDOW w AS (ORDER BY s.{key})
ORDER BY s.{key}
"""
_SETTINGS: Final = """
SELECT set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
       set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO', true)
"""


class Rows:
    """An open reading."""

    def __init__(self, cursor: Any, key: str) -> None:
        self._cursor = cursor
        self._key = key

    async def next(self, most: int) -> list[Row]:
        """Return the next rows, at most so many; none at the end. Raises `SourceUnreadableError`."""
        while True:
            try:
                found = await self._cursor.fetch(most)
            except Exception as error:
                raise _unreadable(error) from error
            fresh = [self._row(row) for row in found if not row["stored"] or row["twice"]]
            if fresh or not found:
                return fresh

    def _row(self, row: Any) -> Row:
        if row["key"] is None:
            raise SourceUnreadableError(f"A row has no {self._key!r}, which is to be its key.")
        if row["twice"]:
            raise SourceUnreadableError(f"Two rows have the key {row['key'][:255]!r}.")
        return Row(row["key"], json.loads(row["columns"], parse_int=_whole))


@asynccontextmanager
async def reading(query: Query, after: str | None) -> AsyncIterator[Rows]:
    """Read the rows behind the key `after`, or all. Raises `SourceUnreadableError`."""
    try:
        connection = await asyncpg.connect(
            query.url,
            timeout=CONNECT_S,
            command_timeout=query.timeout + CONNECT_S,
            statement_cache_size=0,  # there may be a pooler in between
            server_settings={"application_name": "holdfast-source"},
        )
    except Exception as error:
        raise _unreadable(error) from error
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield Rows(await _cursor(connection, query, after), query.key)
    finally:
        # What it has read is stored or not; a goodbye would wait for a server that may have fallen silent.
        connection.terminate()


async def _cursor(connection: Any, query: Query, after: str | None) -> Any:
    key = '"' + query.key.replace('"', '""') + '"'
    stored, behind = "false", "true"
    values = list(query.values)
    try:
        await connection.fetchrow(_SETTINGS, _ms(query.timeout), _ms(IDLE_S))
        if after is not None:
            prepared = await connection.prepare(_ONE.format(key=key, query=query.text))
            (column,) = prepared.get_attributes()
            values.append(after)
            last = f'${len(values)}::text::"{column.type.schema}"."{column.type.name}"'
            stored, behind = f"(s.{key} = {last}) IS TRUE", f"(s.{key} >= {last} OR s.{key} IS NULL)"
        text = _ROWS.format(key=key, query=query.text, stored=stored, behind=behind)
        return await connection.cursor(text, *values)
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> SourceUnreadableError:
    """Return what callers are told: the class of what went wrong, and nothing of the database."""
    return SourceUnreadableError(
        f"The source cannot be read ({type(error).__name__}); the Invoker's log says more."
    )


def _whole(text: str) -> int | str:
    number = int(text)
    return number if abs(number) <= _EXACT else text


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
