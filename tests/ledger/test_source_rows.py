"""A reading that goes on behind a key has every row behind it once, in the order of the key's own type."""

import pytest

from holdfast.ledger.source_rows import Query, Row, SourceUnreadableError, reading
from tests.support.item_source import tell


async def rows(url: str, text: str, *values: str, after: str | None = None, most: int = 3) -> list[Row]:
    found: list[Row] = []
    async with reading(Query(url, text, "Key", values, 5.0), after) as opened:
        while chunk := await opened.next(most):
            assert len(chunk) <= most
            found += chunk
    return found


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("integer", ["-3", "2", "9", "10", "100"]),
        ("numeric", ["-0.50", "0.1", "9.99", "10", "1e30"]),
        ("float8", ["-0.1", "0.3", "1e-300", "1e300"]),
        ("uuid", ["00000000-0000-0000-0000-00000000000a", "f0000000-0000-0000-0000-000000000001"]),
        ("timestamptz", ["2026-03-29 00:59:59.999999+00", "2026-03-29 01:00:00+00", "infinity"]),
        ("date", ["2026-01-02", "2026-10-01"]),
        ("varchar", ["a", "B", "b c", "ä", "Z"]),
        ("bpchar", ["a", "b"]),
        ("text", ["", "'; DROP TABLE t; --", "a", "\\x"]),
        ("mood", ["sad", "glad"]),
    ],
)
async def test_it_goes_on_behind_any_key(empty_database_url: str, kind: str, keys: list[str]) -> None:
    await tell(
        empty_database_url,
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        f'CREATE TABLE t ("Key" {kind}, n int)',
        *(f"INSERT INTO t VALUES ($${key}$$, {n})" for n, key in enumerate(keys)),
    )
    query = "SELECT * FROM t -- as it is"
    whole = [row.key for row in await rows(empty_database_url, query)]
    assert len(whole) == len(keys)
    for n, key in enumerate(whole):
        behind = await rows(empty_database_url, query, after=key, most=2)
        assert [row.key for row in behind] == whole[n + 1 :]


async def test_a_row_is_what_json_has_of_it(empty_database_url: str) -> None:
    text = """
    SELECT 1 AS "Key", 9007199254740993 AS large, 1.50::numeric AS price, '{"a": [1, null]}'::jsonb AS nested,
           ARRAY['x', 'y'] AS list, date '2026-12-24' AS day, NULL AS nothing, $1::text::boolean AS flag
    """
    (row,) = await rows(empty_database_url, text, "true")
    assert row.columns == {
        "Key": 1,
        "large": "9007199254740993",
        "price": 1.5,
        "nested": {"a": [1, None]},
        "list": ["x", "y"],
        "day": "2026-12-24",
        "nothing": None,
        "flag": True,
    }


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_a_key_twice_is_found_wherever_a_reading_broke_off(empty_database_url: str, most: int) -> None:
    text = 'SELECT * FROM (VALUES (1), (2), (2), (3), (NULL)) t ("Key")'
    for after in (None, "1", "2"):
        with pytest.raises(SourceUnreadableError, match="Two rows have the key '2'"):
            await rows(empty_database_url, text, after=after, most=most)
    with pytest.raises(SourceUnreadableError, match="A row has no 'Key'"):
        await rows(empty_database_url, text, after="3", most=most)


async def test_a_row_that_is_gone_does_not_hide_those_behind_it(empty_database_url: str) -> None:
    text = 'SELECT * FROM (VALUES (1), (3)) t ("Key")'
    assert [row.key for row in await rows(empty_database_url, text, after="2")] == ["3"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 1 AS other", "UndefinedColumnError"),
        ('DELETE FROM t RETURNING 1 AS "Key"', "PostgresSyntaxError"),
        ('SELECT 1 AS "Key"; SELECT 2', "PostgresSyntaxError"),
        ("SELECT nextval('numbers') AS \"Key\"", "ReadOnlySQLTransactionError"),
        ('SELECT 1 / 0 AS "Key"', "DivisionByZeroError"),
    ],
)
async def test_what_cannot_be_read_is_told_by_its_class_alone(
    empty_database_url: str, text: str, why: str
) -> None:
    await tell(empty_database_url, "CREATE TABLE t (n int)", "CREATE SEQUENCE numbers")
    with pytest.raises(SourceUnreadableError) as caught:
        await rows(empty_database_url, text)
    assert str(caught.value) == f"The source cannot be read ({why}); the Invoker's log says more."


async def test_a_database_that_is_away_is_no_source() -> None:
    with pytest.raises(SourceUnreadableError, match="cannot be read"):
        await rows("postgresql://nobody@127.0.0.1:1/none", 'SELECT 1 AS "Key"')
    with pytest.raises(SourceUnreadableError, match="cannot be read"):
        await rows("not a URL", 'SELECT 1 AS "Key"')
