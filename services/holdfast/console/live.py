"""Streams of fragments to a page: each begins with all there is, so a connection made anew misses nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import Request
from starlette.responses import StreamingResponse

KEEPALIVE_S: Final = 15.0


def event(name: str, html: str) -> str:
    """Return one server-sent event. A lone carriage return would end a line, so none is left."""
    lines = html.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"


def stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Return the response that carries them."""
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def pause(request: Request, seconds: float, changed: asyncio.Event | None = None) -> bool:
    """Wait for a change, at most so long; False when the console stops, and the stream is to end."""
    stopping: asyncio.Event = request.app.state.stopping
    waits = {asyncio.ensure_future(each.wait()) for each in (stopping, changed) if each is not None}
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return not stopping.is_set()
