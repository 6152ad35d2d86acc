"""A destination made or changed from a page; what the form does not show of it stays."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.client import Destination, HoldfastError, errors
from holdfast.console.clients import client_of
from holdfast.console.entry import MARKED, Mistyped, Reading, at_fields, duration, rate, seconds, whole
from holdfast.console.guard import form_of
from holdfast.console.page import page, sentence
from holdfast.console.session import say

_EMPTY: Final[Mapping[str, str]] = {
    "name": "",
    "url": "",
    "secret_name": "",
    "max_concurrent": "",
    "max_per_second": "",
    "timeout": "",
    "max_attempts": "",
}
_PLACES: Final = {
    "destination.name": "name",
    "http.url": "url",
    "http.secret_name": "secret_name",
    "nats.credentials_name": "secret_name",
    "grpc": "url",
    "nats": "url",
    "max_concurrent": "max_concurrent",
    "max_per_second": "max_per_second",
    "timeout": "timeout",
    "retry.max_attempts": "max_attempts",
}


async def show(request: Request) -> Response:
    """Show the form, of a destination that there is if its name is given."""
    name = request.query_params.get("name", "")
    there = await _there(request, name) if name else None
    return _form(request, _EMPTY if there is None else _fields_of(there), new=there is None)


async def _there(request: Request, name: str) -> Destination | None:
    async for each in client_of(request).outbox.list_destinations():
        if each.name == name:
            return each
    return None


def _fields_of(there: Destination) -> dict[str, str]:
    return {
        "name": there.name,
        "url": there.url,
        "secret_name": there.secret_name,
        "max_concurrent": str(there.max_concurrent),
        "max_per_second": f"{there.max_per_second!r}" if there.max_per_second else "",
        "timeout": duration(there.timeout),
        "max_attempts": str(there.max_attempts),
    }


def _form(
    request: Request,
    given: Mapping[str, str],
    *,
    new: bool,
    wrong: str = "",
    flaws: Mapping[str, str] | None = None,
) -> Response:
    status = 400 if wrong else 200
    return page(
        request, "destination.html", status=status, given=given, new=new, wrong=wrong, flaws=flaws or {}
    )


async def save(request: Request) -> Response:
    """Make a destination, or change one; a new one does not take the place of one there is."""
    form = form_of(request)
    given = {name: form.get(name, "").strip() for name in _EMPTY}
    new = form.get("new") == "yes"
    try:
        there = await _there(request, given["name"])
        await client_of(request).outbox.put_destination(_destination(given, there, new=new))
    except (Mistyped, HoldfastError) as error:
        if isinstance(error, errors.Unauthenticated):
            raise
        flaws = _mistakes(error)
        wrong = sentence(error) if isinstance(error, HoldfastError) else str(error)
        return _form(request, given, new=new, wrong=MARKED if flaws else wrong, flaws=flaws)
    say(request, f"Effects for “{given['name']}” go there from now on.")
    return RedirectResponse("/outbox", 303)


def _mistakes(error: Mistyped | HoldfastError) -> dict[str, str]:
    if isinstance(error, Mistyped):
        return error.at
    if isinstance(error, errors.DestinationRefused):
        return {"url": error.message}
    return at_fields(error.violations, _PLACES)


def _destination(given: Mapping[str, str], there: Destination | None, *, new: bool) -> Destination:
    """Return what is typed, over what there is. Raises `Mistyped`."""
    reading = Reading(given)
    for name, text in (("name", "A destination has a name."), ("url", "Say where its effects are sent.")):
        if not given[name]:
            reading.miss(name, text)
    if new and there is not None:
        reading.miss("name", "There is one of this name already: change that one, or take another name.")
    found = replace(
        there or Destination(given["name"], given["url"]),
        url=given["url"],
        secret_name=given["secret_name"],
        max_concurrent=reading.take("max_concurrent", "Calls at once", whole, 0),
        max_per_second=reading.take("max_per_second", "Calls a second", rate, 0.0),
        timeout=reading.take("timeout", "A call may take", seconds, 0.0),
        max_attempts=reading.take("max_attempts", "Tries of an effect", whole, 0),
    )
    reading.settle()
    return found
