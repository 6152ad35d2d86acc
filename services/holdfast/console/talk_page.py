"""Talking to an agent: start a run from the page, then type while it streams."""

import json

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.client import HoldfastError, Invocation, OnDisconnect, Started
from holdfast.console.clients import client_of
from holdfast.console.guard import form_of
from holdfast.console.page import page
from holdfast.console.session import session_of


async def show(request: Request) -> Response:
    """Show the form that starts a conversation."""
    intent = request.query_params.get("intent", "")
    return page(request, "talk.html", intent=intent, payload="{}", session_id="", wrong="")


async def start(request: Request) -> Response:
    """Start a run on a stream both ways; it goes on when the browser leaves."""
    form, who = form_of(request), session_of(request)
    given = {name: str(form.get(name, "")).strip() for name in ("intent", "payload", "session_id")}

    def again(wrong: str) -> Response:
        return page(request, "talk.html", status=400, **given, wrong=wrong)

    try:
        payload = json.loads(given["payload"] or "{}")
    except ValueError as error:
        return again(f"The payload is not JSON: {error}.")
    if not isinstance(payload, dict):
        return again('The payload must be a JSON object, as {"name": "Ada"}.')
    invocation = Invocation(
        given["intent"], payload, tenant=who.tenant, user=who.claimed_user, session_id=given["session_id"]
    )
    try:
        async with client_of(request).converse(invocation, on_disconnect=OnDisconnect.CONTINUE) as talk:
            async for update in talk:
                if isinstance(update, Started):
                    return RedirectResponse(f"/runs/{update.run.run_id}?talk=1", 303)
    except HoldfastError as error:
        return again(error.message)
    return again("The conversation ended before it began: try again.")
