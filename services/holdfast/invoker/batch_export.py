"""The items of a batch as a file, JSONL or CSV: page by page, so any size costs the same memory."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from google.protobuf import json_format

from holdfast.invoker.batch_message import final_output, item_message, read_filter
from holdfast.invoker.envelope import Violations
from holdfast.kit.db import Database
from holdfast.ledger import batch_view
from holdfast.ledger.batch_view import ItemFilter, ItemView
from holdfast.v1 import batch_service_pb2 as pb

_AT_ONCE = 100
_FIXED = ("key", "status", "label", "confidence", "review")
_OUTPUT = "output"


async def export(
    db: Database, tenant: str, request: pb.ExportBatchRequest, token_price: float = 0.0
) -> AsyncIterator[pb.ExportBatchResponse]:
    """Yield the file in parts that end with whole lines. Raises `InvalidField`, `BatchNotFound`.

    The columns of a CSV after the fixed ones are the fields that any output has, so the items are read twice.
    """
    wrong = Violations()
    batch_id = wrong.run_id("batch_id", request.batch_id)
    if request.format not in pb.ExportFormat.values():
        wrong.add("format", "is not a format")
    which = read_filter(wrong, request.filter)
    assert batch_id is not None  # read_filter() raised otherwise
    async with db.connection() as connection:
        await batch_view.get(connection, tenant, batch_id)
    as_csv = request.format == pb.EXPORT_FORMAT_CSV
    columns = await _columns(db, batch_id, which) if as_csv else []
    after = request.after_index if request.HasField("after_index") else -1
    if as_csv and not request.HasField("after_index"):
        yield pb.ExportBatchResponse(data=_row([*_FIXED, *columns]), last_index=-1)
    async for view in _items(db, batch_id, which, after):
        line = _csv(view, columns) if as_csv else _jsonl(request.batch_id, view, token_price)
        yield pb.ExportBatchResponse(data=line, last_index=view.index)


async def _items(db: Database, batch_id: UUID, which: ItemFilter, start: int = -1) -> AsyncIterator[ItemView]:
    """Yield the items behind `start`, page by page."""
    after: int | None = start
    while after is not None:
        async with db.connection() as connection:
            views, after = await batch_view.list_items(
                connection, batch_id, which, limit=_AT_ONCE, after=after
            )
        for view in views:
            yield view


async def _columns(db: Database, batch_id: UUID, which: ItemFilter) -> list[str]:
    found: set[str] = set()
    async for view in _items(db, batch_id, which):
        found.update(_fields(view))
    return sorted(found) or [_OUTPUT]


def _fields(view: ItemView) -> dict[str, Any]:
    """Return the fields of an item's output as it would be applied; what has none is one itself."""
    stored = final_output(view)
    output = None if stored is None else json.loads(stored)
    if output is None:
        return {}
    return output if isinstance(output, dict) else {_OUTPUT: output}


def _csv(view: ItemView, columns: list[str]) -> bytes:
    found = _fields(view)
    confidence = "" if view.confidence is None else view.confidence
    review = "" if view.review is None else "accept" if view.review.accepted else "reject"
    fixed = [_cell(view.key), view.status.name, _cell(view.label), confidence, review]
    return _row([*fixed, *(_cell(found.get(name)) for name in columns)])


def _cell(value: object) -> object:
    """Return a value as a cell: a text as it is, but marked if a spreadsheet would run it; others as JSON."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _row(cells: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


def _jsonl(batch_id: str, view: ItemView, token_price: float) -> bytes:
    item = json_format.MessageToDict(
        item_message(batch_id, view, token_price), preserving_proto_field_name=True
    )
    return json.dumps(item, ensure_ascii=False).encode() + b"\n"
