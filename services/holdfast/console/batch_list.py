"""The batches, the newest first; how far each has come is shown for those that are not over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import Batch, BatchStatus, HoldfastError
from holdfast.console.batch_shape import eta, parts, percent
from holdfast.console.clients import client_of
from holdfast.console.live import event, pause, stream
from holdfast.console.page import fragment, page, sentence

_MOST: Final = 100
_MOST_LOOKED_AT: Final = 12
"""Batches of which the list asks how far they are, each one call; further ones show it on their page."""
_LOOK_EVERY_S: Final = 3.0
_VIEWS: Final = {
    "all": ("All", ()),
    "going": ("Going", (BatchStatus.RUNNING, BatchStatus.APPLYING, BatchStatus.ROLLING_BACK)),
    "waiting": (
        "Waiting for you",
        (BatchStatus.UPLOADING, BatchStatus.READY, BatchStatus.IN_REVIEW, BatchStatus.PAUSED),
    ),
    "ended": (
        "Ended",
        (BatchStatus.COMPLETED, BatchStatus.APPLIED, BatchStatus.ROLLED_BACK, BatchStatus.CANCELLED),
    ),
}


def _given(request: Request) -> tuple[str, str]:
    view = request.query_params.get("view", "all")
    return view if view in _VIEWS else "all", request.query_params.get("intent", "").strip()


async def _rows(request: Request) -> list[tuple[Batch, dict[str, Any] | None]]:
    view, intent = _given(request)
    batches = client_of(request).batches
    found: list[Batch] = []
    async for batch in batches.list(statuses=_VIEWS[view][1], intent=intent):
        found.append(batch)
        if len(found) >= _MOST:
            break
    open_ones = [batch.batch_id for batch in found if batch.end_time is None][:_MOST_LOOKED_AT]
    looked = await asyncio.gather(*(batches.get(batch_id) for batch_id in open_ones))
    known = {
        batch.batch_id: {"parts": parts(progress), "progress": progress, "eta": eta(batch, progress)}
        for batch, progress in looked
    }
    return [(batch, known.get(batch.batch_id)) for batch in found]


async def show(request: Request) -> Response:
    """Show the batches."""
    view, intent = _given(request)
    views = [(name, title) for name, (title, _) in _VIEWS.items()]
    rows = await _rows(request)
    return page(
        request,
        "batches.html",
        rows=rows,
        view=view,
        views=views,
        intent=intent,
        most=_MOST,
        percent=percent,
    )


async def live(request: Request) -> Response:
    """Stream the rows whenever they have changed."""

    async def told() -> AsyncIterator[str]:
        shown, quiet = "", 0
        while True:
            try:
                text = fragment(request, "batch_rows.html", rows=await _rows(request), percent=percent)
            except HoldfastError as error:
                yield event("trouble", fragment(request, "trouble.html", text=sentence(error)))
                shown = ""
            else:
                if not shown:
                    yield event("trouble", "")
                if text != shown:
                    yield event("rows", text)
                    shown, quiet = text, 0
            quiet += 1
            if quiet % 5 == 0:
                yield ": still here\n\n"
            if not await pause(request, _LOOK_EVERY_S):
                return

    return stream(told())
