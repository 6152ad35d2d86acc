"""Signing in and out: with identity by a token, whose rights one then has; without, by one's word."""

from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.client import HoldfastError, Me, errors
from holdfast.console.clients import Clients
from holdfast.console.guard import form_of
from holdfast.console.page import done, page
from holdfast.console.session import Session, anonymous, say, session_of
from holdfast.console.settings import ConsoleSettings

_LONGEST: Final = 200


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _form(request: Request, given: dict[str, str], wrong: str = "", status: int = 200) -> Response:
    settings: ConsoleSettings = request.app.state.settings
    if not session_of(request).csrf:
        request.state.session = anonymous()  # which the form is sent with
    shown = {"tenant": "", "user": "", "groups": "", **given}
    return page(
        request,
        "sign_in.html",
        status=status,
        identity=settings.identity,
        kinds=settings.auth,
        provider=settings.console_oidc_issuer,
        reachable=settings.reachable,
        lasts=settings.console_session_ttl,
        wrong=wrong,
        given=shown,
    )


async def show(request: Request) -> Response:
    """Show the form."""
    settings: ConsoleSettings = request.app.state.settings
    return _form(request, {} if settings.identity else {"tenant": "default"})


async def enter(request: Request) -> Response:
    """Begin a session; its token against forged forms is a new one."""
    settings: ConsoleSettings = request.app.state.settings
    return await _by_token(request) if settings.identity else _by_word(request)


def _by_word(request: Request) -> Response:
    form = form_of(request)
    given = {name: str(form.get(name, "")).strip() for name in ("tenant", "user", "groups")}
    wrong = ""
    if not given["tenant"] or not given["user"]:
        wrong = "Say for which tenant and as whom you act."
    elif not all(map(_is_name, given.values())):
        wrong = "Names are printable ASCII, at most 200 characters."
    if wrong:
        return _form(request, given, wrong, 400)
    request.state.session = Session(
        csrf=anonymous().csrf, tenant=given["tenant"], user=given["user"], groups=_names(given["groups"])
    )
    return RedirectResponse("/runs", 303)


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST and text.isprintable() and text.isascii()


async def _by_token(request: Request) -> Response:
    form = form_of(request)
    token, tenant = str(form.get("token", "")).strip(), str(form.get("tenant", "")).strip()
    given = {"tenant": tenant}  # the token is not shown again
    wrong = ""
    if not token:
        wrong = "Paste a token."
    elif not token.isascii() or not token.isprintable() or " " in token:
        wrong = "A token is one word: this is none. Copy all of it, and nothing else."
    elif not _is_name(tenant):
        wrong = "A tenant's name is printable ASCII, at most 200 characters."
    if wrong:
        return _form(request, given, wrong, 400)
    refusal = await admit(request, token, tenant)
    return refusal if refusal is not None else RedirectResponse("/runs", 303)


async def admit(request: Request, token: str, tenant: str) -> Response | None:
    """Begin the session of who has a token; returns the form that says why not, if it cannot."""
    clients: Clients = request.app.state.clients
    given = {"tenant": tenant}
    try:
        me = await clients.me(token, tenant)
    except HoldfastError as error:
        return _form(request, given, *_why_not(error))
    if not me.credential:
        wrong = "The services do not ask who calls: the console's HOLDFAST_AUTH must be as theirs."
        return _form(request, given, wrong, 503)
    session = _session(me, token)
    if not request.app.state.sessions.fits(session):
        wrong = "The token is too large for a cookie: use an API token, or one with fewer claims."
        return _form(request, given, wrong, 400)
    request.state.session = session
    return None


def refuse(request: Request, wrong: str, status: int) -> Response:
    """Return the form with a sentence about why signing in elsewhere has failed."""
    return _form(request, {}, wrong, status)


def _why_not(error: HoldfastError) -> tuple[str, int]:
    if isinstance(error, errors.Unauthenticated):
        return "The token does not verify: it may be mistyped, revoked or over.", 401
    if isinstance(error, errors.TenantMismatch):
        return "The token is another tenant's. Leave the tenant empty to take the token's own.", 403
    return error.message, 503


def _session(me: Me, token: str) -> Session:
    return Session(
        csrf=anonymous().csrf,
        tenant=me.tenant,
        user=me.user,
        groups=tuple(me.groups),
        roles=tuple(me.roles),
        credential=token,
        platform=me.platform,
    )


async def switch(request: Request) -> Response:
    """Act for another tenant, as a credential of the platform may."""
    form, session = form_of(request), session_of(request)
    tenant = str(form.get("tenant", "")).strip()
    clients: Clients = request.app.state.clients
    if session.platform and tenant and _is_name(tenant):
        try:
            found = _session(await clients.me(session.credential, tenant), session.credential)
            request.state.session = replace(found, since=session.since)
        except HoldfastError as error:
            say(request, error.message, "bad")
        else:
            return done(request, f"You act for {tenant} now.", form, "/runs")
    else:
        say(request, "The tenant was not changed: your credential is for one tenant only.", "bad")
    return RedirectResponse("/runs", 303)


async def leave(request: Request) -> Response:
    """End the session. The token itself goes on being good: `holdfast tokens revoke` ends it."""
    request.state.session = anonymous()
    return RedirectResponse("/sign-in", 303)
