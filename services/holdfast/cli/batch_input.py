"""Items of a batch from a file: JSON lines, or CSV with a header."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.client import BatchInput


class Items:
    """The items of a file, read anew each time they are iterated; ValueError in one sentence.

    A line of JSON is an item's payload, or `{"payload": …, "key": …, "current": …}`. Of a CSV each row is a
    payload of texts. `key` names the column or field that is the item's key.
    """

    def __init__(self, path: Path, key: str = "") -> None:
        self._path = path
        self._key = key

    def __iter__(self) -> Iterator[BatchInput]:
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            if self._path.suffix.lower() == ".csv":
                for row in csv.DictReader(file):
                    yield self._item({name: value for name, value in row.items() if name is not None})
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._item(_object(line, number))

    def _item(self, found: dict[str, Any]) -> BatchInput:
        payload, key, current = found, "", None
        if isinstance(found.get("payload"), dict) and found.keys() <= {"payload", "key", "current"}:
            payload, key, current = found["payload"], str(found.get("key", "")), found.get("current")
        if self._key:
            if self._key not in payload:
                raise ValueError(f"An item has no {self._key!r}, which is to be its key.")
            key = str(payload[self._key])
        return BatchInput(payload, key, current)


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"Line {number} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Line {number} is not a JSON object.")  # noqa: TRY004 - what people typed
    return found
