"""The file of a batch's items, as a form brought it: read whole before any item is sent."""

import asyncio
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import UploadFile

from holdfast.client import BatchInput, ItemFile
from holdfast.console.entry import Mistyped
from holdfast.console.words import number

WITH_FILE: Final = ("/batches/new", "/items")
"""How the paths end at which a form brings a file."""


async def items_of(file: UploadFile | None, key: str, *, stored: int = 0) -> ItemFile:
    """Return the items of a file in which there is no mistake, and not fewer than are stored.

    Raises `Mistyped`.
    """
    if file is None:
        raise _wrong("Choose the file whose items are to be sent.")
    items = ItemFile(file.file, is_csv=(file.filename or "").lower().endswith(".csv"), key=key)
    try:
        count = await asyncio.to_thread(_counted, items)
    except ValueError as error:
        raise _wrong(f"{error} Nothing was sent.") from None
    if not count:
        raise _wrong("There is no item in it.")
    if count < stored:
        raise _wrong(f"It has {number(count)} items, and {number(stored)} are here: it is another file.")
    return items


def _wrong(text: str) -> Mistyped:
    return Mistyped(text, {"file": text})


def _counted(items: Iterable[BatchInput]) -> int:
    """Return how many items there are. Raises ValueError for what is wrong with one."""
    keys = set[str]()
    for place, item in enumerate(items):
        key = item.key or str(place)
        if key in keys:
            raise ValueError(f"The key {key!r} is there twice.")
        keys.add(key)
    return len(keys)
