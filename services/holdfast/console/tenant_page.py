"""The tenants: how long each waits, what each may do, and their limits to change."""

from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.client import HoldfastError
from holdfast.console.clients import client_of
from holdfast.console.guard import form_of
from holdfast.console.page import done, page
from holdfast.console.session import say, session_of

_MOST: Final = 200
_LIMITS: Final = (
    ("weight", "Share beside other tenants"),
    ("max_in_flight", "Runs in flight at once"),
    ("max_in_flight_per_user", "Of these, of each user"),
    ("max_queued", "Runs that may wait"),
    ("rate", "Runs a second"),
    ("burst", "Runs at once after a pause"),
)
_BUDGET: Final = (
    ("deadline_ms", "Time, in ms"),
    ("max_steps", "Steps"),
    ("max_tools", "Tool calls"),
    ("max_tokens", "Tokens"),
    ("max_context", "Context, in tokens"),
)


async def show(request: Request) -> Response:
    """Show the tenants with their queues; to who may not see others, their own."""
    session = session_of(request)
    if not session.may("TenantService/ListTenants"):
        return RedirectResponse(f"/tenants/{quote(session.tenant, safe='')}", 303)
    tenants = []
    async for each in client_of(request).tenants.list():
        tenants.append(each)
        if len(tenants) >= _MOST:
            break
    return page(request, "tenants.html", tenants=tenants)


async def show_one(request: Request, wrong: str = "") -> Response:
    """Show one tenant, its intents and its limits as a form."""
    tenants, name = client_of(request).tenants, request.path_params["tenant"]
    tenant = await tenants.get(name)
    statistics = await tenants.statistics(name)
    fields = [(name, title, getattr(tenant, name)) for name, title in _LIMITS]
    budget = [(name, title, getattr(tenant.default_budget, name)) for name, title in _BUDGET]
    return page(
        request,
        "tenant.html",
        status=400 if wrong else 200,
        tenant=tenant,
        statistics=statistics,
        fields=fields,
        budget=budget,
        wrong=wrong,
    )


async def change(request: Request) -> Response:
    """Change limits that are given."""
    form, name = form_of(request), request.path_params["tenant"]
    limits: dict[str, Any] = {}
    for field, title in (*_LIMITS, *_BUDGET):
        text = str(form.get(field, "")).strip()
        try:
            if text:
                limits[field] = float(text) if field == "rate" else int(text)
        except ValueError:
            return await show_one(request, f"“{title}” must be a number, and nothing was changed.")
    try:
        await client_of(request).tenants.set(name, **limits)
    except HoldfastError as error:
        say(request, error.message, "bad")
        return await show_one(request, error.message)
    return done(request, f"The limits of {name} hold from the next call on.", form, f"/tenants/{name}")
