"""Streams of fragments to a page: each begins with all there is, so a connection made anew misses nothing.

One ends with the session it was asked for: when its time is over, or the services no longer take its token.
Then the page is told, and does not connect anew.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import StreamingResponse

from holdfast.client import errors
from holdfast.console.page import fragment
from holdfast.console.session import Sessions, session_of

KEEPALIVE_S: Final = 15.0


def event(name: str, html: str) -> str:
    """Return one server-sent event. A lone carriage return would end a line, so none is left."""
    lines = html.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"


def stream(request: Request, events: AsyncGenerator[str]) -> StreamingResponse:
    """Return the response that carries them while the session lasts; `events` raises `Unauthenticated`."""
    return StreamingResponse(
        _while_signed_in(request, events),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _while_signed_in(request: Request, events: AsyncGenerator[str]) -> AsyncIterator[str]:
    sessions: Sessions = request.app.state.sessions
    async with aclosing(events):
        try:
            async for each in events:
                if not sessions.left(session_of(request)):
                    break
                yield each
            else:
                return
        except errors.Unauthenticated:
            pass
    for each in _signed_out(request):
        yield each


def over(request: Request) -> StreamingResponse:
    """Return the stream of a page whose session is over already: it says so, and does not come again."""
    return StreamingResponse(iter(_signed_out(request)), media_type="text/event-stream")


def _signed_out(request: Request) -> list[str]:
    return [event("trouble", fragment(request, "signed_out.html")), event("over", "")]


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
