"""A page is a template with what every page has: who looks, where they are, and what was just said."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from holdfast.client import HoldfastError, errors
from holdfast.console.session import anonymous, said, say, session_of
from holdfast.console.words import FILTERS

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of the navigation; `call` is what its page cannot do without."""

    href: str
    title: str
    call: str
    under: tuple[str, ...] = ()

    def is_at(self, path: str) -> bool:
        """Tell whether a page belongs to it."""
        return any(path == each or path.startswith(f"{each}/") for each in (self.href, *self.under))


PLACES: Final = (
    Place("/runs", "Runs", "InvokerService/ListRuns"),
    Place("/talk", "Talk", "InvokerService/Converse"),
    Place("/approvals", "Approvals", "ApprovalService/ListApprovals"),
    Place("/batches", "Batches", "BatchService/ListBatches"),
    Place("/schedules", "Schedules", "ScheduleService/ListSchedules"),
    Place("/outbox", "Outbox", "OutboxService/ListEffects", ("/destinations",)),
    Place("/refused", "Refused", "EventService/ListRefusedEvents"),
    Place("/tenants", "Tenants", "TenantService/GetTenant"),
    Place("/tokens", "Access", "AccessService/ListTokens", ("/audit",)),
)


_ADVICE: Final[tuple[tuple[type[HoldfastError], HTTPStatus, str], ...]] = (
    (errors.NotFound, HTTPStatus.NOT_FOUND, "It may belong to another tenant, or be kept no longer."),
    (errors.InvalidArgument, HTTPStatus.BAD_REQUEST, "Go back and correct what was entered."),
    (
        errors.Forbidden,
        HTTPStatus.FORBIDDEN,
        "Ask an admin for the role, or sign in with a token that has it.",
    ),
    (errors.Unauthenticated, HTTPStatus.UNAUTHORIZED, "Sign in again."),
    (errors.FailedPrecondition, HTTPStatus.CONFLICT, "It has moved on meanwhile: look at it as it is now."),
    (errors.AlreadyExists, HTTPStatus.CONFLICT, "Look at the one there is."),
    (errors.ResourceExhausted, HTTPStatus.TOO_MANY_REQUESTS, "Wait a little, then try again."),
    (
        errors.Unavailable,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "A service does not answer: try again, or ask `holdfast doctor`.",
    ),
    (
        errors.NotYetAvailable,
        HTTPStatus.NOT_IMPLEMENTED,
        "This release of the services does not do it yet; nothing has happened.",
    ),
    (errors.DeadlineExceeded, HTTPStatus.GATEWAY_TIMEOUT, "A service took too long: try again."),
)


def _environment() -> Environment:
    loader = PackageLoader("holdfast.console", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(FILTERS)
    return environment


_TEMPLATES: Final = _environment()


def fragment(request: Request, template: str, **values: Any) -> str:
    """Return a part of a page, for a stream."""
    return _TEMPLATES.get_template(template).render(session=session_of(request), **values)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a whole page."""
    flash, flash_kind = said(request)
    session = session_of(request)
    text = _TEMPLATES.get_template(template).render(
        session=session,
        navigation=[place for place in PLACES if session.may(place.call)] if session.signed_in else [],
        path=request.url.path,
        flash=flash,
        flash_kind=flash_kind,
        **values,
    )
    return HTMLResponse(text, status)


def problem(request: Request, title: str, text: str, advice: str, status: int) -> HTMLResponse:
    """Return a page that says what went wrong and what to do."""
    return page(request, "problem.html", status=status, title=title, text=text, advice=advice)


def refused(request: Request, error: HoldfastError) -> Response:
    """Return the page of a refused call; who is nobody any longer signs in again."""
    if isinstance(error, errors.Unauthenticated):
        known = session_of(request).credential
        request.state.session = anonymous()
        why = (
            "your token does not verify any longer."
            if known
            else "the services ask for a token, and the console's HOLDFAST_AUTH does not say so."
        )
        say(request, f"You are signed out: {why}", "warn")
        return RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
    otherwise = (HoldfastError, HTTPStatus.BAD_GATEWAY, "Try again; if it stays, read the services' logs.")
    _, status, advice = next((each for each in _ADVICE if isinstance(error, each[0])), otherwise)
    return problem(request, status.phrase, error.message, advice, status)


def back(form: Mapping[str, Any], otherwise: str) -> RedirectResponse:
    """Return the way to the page that a form was on, which must be one of ours."""
    wanted = str(form.get("back", ""))
    local = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted
    return RedirectResponse(wanted if local else otherwise, HTTPStatus.SEE_OTHER)


def done(request: Request, text: str, form: Mapping[str, Any], otherwise: str) -> RedirectResponse:
    """Say that something was done, on the page it was asked for."""
    say(request, text)
    return back(form, otherwise)


def failed(request: Request, error: HoldfastError, form: Mapping[str, Any], otherwise: str) -> Response:
    """Say why something was not done, on the page it was asked for."""
    if isinstance(error, errors.Unauthenticated):
        return refused(request, error)
    say(request, sentence(error), "bad")
    return back(form, otherwise)


def sentence(error: HoldfastError) -> str:
    """Return what people are told of a refused call."""
    if isinstance(error, errors.PermissionDenied):
        return f"You may not do this, and nothing has happened. {error.message}"
    if isinstance(error, errors.NotYetAvailable):
        return f"This release does not do that yet, and nothing has happened. {error.message}"
    return error.message
