"""The outbox: where effects go and how that fares, what is set aside, and what to do about it."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import Effect, EffectStatus, HoldfastError, errors
from holdfast.console.clients import client_of
from holdfast.console.guard import form_of
from holdfast.console.page import done, failed, page
from holdfast.console.session import session_of

_MOST: Final = 100
_VIEWS: Final = {
    "dead": ("Dead letters", (EffectStatus.DEAD_LETTERED,)),
    "waiting": ("On their way", (EffectStatus.PENDING, EffectStatus.SENDING)),
    "delivered": ("Delivered", (EffectStatus.DELIVERED,)),
    "all": ("All", ()),
}


async def show(request: Request) -> Response:
    """Show the destinations and the effects."""
    outbox = client_of(request).outbox
    view = request.query_params.get("view", "dead")
    view = view if view in _VIEWS else "dead"
    destination = request.query_params.get("destination", "").strip()
    effects: list[Effect] = []
    async for effect in outbox.list_effects(statuses=_VIEWS[view][1], destination=destination):
        effects.append(effect)
        if len(effects) >= _MOST:
            break
    destinations = [each async for each in outbox.list_destinations()]
    views = [(name, title) for name, (title, _) in _VIEWS.items()]
    return page(
        request,
        "outbox.html",
        effects=effects,
        destinations=destinations,
        view=view,
        views=views,
        destination=destination,
        most=_MOST,
    )


async def destination_names(request: Request) -> list[str]:
    """Return names to suggest where a destination is typed; fewer where they cannot be asked for."""
    names: list[str] = []
    if not session_of(request).may("OutboxService/ListDestinations"):
        return names
    try:
        async for destination in client_of(request).outbox.list_destinations():
            names.append(destination.name)
            if len(names) >= _MOST:
                break
    except errors.Unavailable:
        return names  # whoever types a name needs no suggestion
    return names


async def show_one(request: Request) -> Response:
    """Show an effect with its attempts."""
    effect = await client_of(request).outbox.get_effect(request.path_params["effect_id"])
    return page(request, "effect.html", effect=effect)


async def act(request: Request) -> Response:
    """Send an effect again, or give it up."""
    form, effect_id = form_of(request), request.path_params["effect_id"]
    outbox = client_of(request).outbox
    try:
        if request.path_params["action"] == "retry":
            await outbox.retry_effect(effect_id)
            return done(request, "The effect is sent again.", form, "/outbox")
        await outbox.discard_effect(effect_id, str(form.get("reason", "")))
        return done(request, "The effect is given up and will not be sent.", form, "/outbox")
    except HoldfastError as error:
        return failed(request, error, form, "/outbox")


async def reset(request: Request) -> Response:
    """Close a destination's breaker."""
    form, name = form_of(request), request.path_params["name"]
    try:
        await client_of(request).outbox.reset_breaker(name)
    except HoldfastError as error:
        return failed(request, error, form, "/outbox")
    return done(request, f"The breaker of {name} is closed: effects go out again.", form, "/outbox")
