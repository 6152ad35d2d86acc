"""The batches, the newest first; how far each has come is shown for those that are not over."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import Batch, BatchProgress, BatchStatus, HoldfastError, errors
from holdfast.console.batch_shape import Part, eta, parts, percent
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


@dataclass(frozen=True, slots=True)
class HowFar:
    """How far a batch is; two that the list would show alike are equal."""

    parts: list[Part]
    eta: str
    progress: BatchProgress = field(compare=False)


def _given(request: Request) -> tuple[str, str]:
    view = request.query_params.get("view", "all")
    return view if view in _VIEWS else "all", request.query_params.get("intent", "").strip()


async def _rows(request: Request) -> list[tuple[Batch, HowFar | None]]:
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
        batch.batch_id: HowFar(parts(progress), eta(batch, progress), progress) for batch, progress in looked
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

    async def told() -> AsyncGenerator[str]:
        shown: list[tuple[Batch, HowFar | None]] | None = None
        quiet = 0
        while True:
            try:
                rows = await _rows(request)
            except errors.Unauthenticated:
                raise
            except HoldfastError as error:
                yield event("trouble", fragment(request, "trouble.html", text=sentence(error)))
                shown = None
            else:
                if rows != shown:
                    if shown is None:
                        yield event("trouble", "")
                    yield event("rows", fragment(request, "batch_rows.html", rows=rows, percent=percent))
                    shown, quiet = rows, 0
            quiet += 1
            if quiet % 5 == 0:
                yield ": still here\n\n"
            if not await pause(request, _LOOK_EVERY_S):
                return

    return stream(request, told())
