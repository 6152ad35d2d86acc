"""The refused events: what services staged that became no run, why, and what to do about it."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import HoldfastError, RefusedEvent
from holdfast.console.clients import client_of
from holdfast.console.guard import form_of
from holdfast.console.page import done, failed, page

_MOST: Final = 200
_HERE: Final = "/refused"


async def show(request: Request) -> Response:
    """Show them, the oldest first."""
    events: list[RefusedEvent] = []
    async for event in client_of(request).refused_events.list(page_size=_MOST):
        events.append(event)
        if len(events) >= _MOST:
            break
    return page(request, "refused.html", events=events, most=_MOST)


async def act(request: Request) -> Response:
    """Send an event through the door again, or give it up."""
    form, event_id = form_of(request), request.path_params["event_id"]
    refused, action = client_of(request).refused_events, request.path_params["action"]
    if action not in {"retry", "discard"}:
        raise HTTPException(404)
    try:
        if action == "retry":
            number = await refused.retry(event_id)
            return done(request, f"The event goes through the door again, as number {number}.", form, _HERE)
        await refused.discard(event_id)
    except HoldfastError as error:
        return failed(request, error, form, _HERE)
    return done(request, "The event is given up: it becomes no run.", form, _HERE)
