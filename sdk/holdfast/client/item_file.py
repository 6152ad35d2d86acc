"""Items of a batch from a file: JSON lines, or CSV with a header."""

import csv
import io
import json
from collections.abc import Iterator
from typing import IO, Any

from holdfast.client.batch import BatchInput


class ItemFile:
    """The items of an open file, read anew each time they are iterated; ValueError in one sentence.

    A line of JSON is an item's payload, or `{"payload": …, "key": …, "current": …}`. Of a CSV (`is_csv`) each
    row is a payload of texts. `key` names the column or field that is the item's key.
    """

    def __init__(self, file: IO[bytes], *, is_csv: bool, key: str = "") -> None:
        self._file = file
        self._is_csv = is_csv
        self._key = key

    def __iter__(self) -> Iterator[BatchInput]:
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="")
        try:
            for found in _rows(text) if self._is_csv else _lines(text):
                yield self._item(found)
        except UnicodeDecodeError as error:
            raise ValueError(f"The file is not text in UTF-8: {error.reason}.") from error
        finally:
            text.detach()  # closing it is for whoever has opened it

    def _item(self, found: dict[str, Any]) -> BatchInput:
        payload, key, current = found, "", None
        if isinstance(found.get("payload"), dict) and found.keys() <= {"payload", "key", "current"}:
            payload, key, current = found["payload"], str(found.get("key", "")), found.get("current")
        if self._key:
            if self._key not in payload:
                raise ValueError(f"An item has no {self._key!r}, which is to be its key.")
            key = str(payload[self._key])
        return BatchInput(payload, key, current)


def _rows(text: io.TextIOWrapper) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(text)
    try:
        for row in rows:
            yield {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise ValueError(f"Line {rows.line_num} is not CSV: {error}.") from error


def _lines(text: io.TextIOWrapper) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text, 1):
        if line.strip():
            yield _object(line, number)


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"Line {number} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Line {number} is not a JSON object.")  # noqa: TRY004 - what people typed
    return found
