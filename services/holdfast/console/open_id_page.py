"""The way to the OpenID provider and back. What a browser keeps meanwhile is a cookie of its own.

The session's cookie is SameSite=Strict and so does not come along when another site sends the browser here.
The cookie of the attempt is Lax, sealed, and good for ten minutes on these two paths. For the same reason the
way on from here is a page that goes on by itself, and not a redirect, which would still be the other site's
where a browser does not say that it is (`guard` lets it ask again where it does).
"""

from dataclasses import asdict
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.console.open_id import Attempt, OpenId, ProviderError
from holdfast.console.page import page
from holdfast.console.session import Sessions
from holdfast.console.settings import ConsoleSettings
from holdfast.console.sign_in import admit, refuse
from holdfast.kit.telemetry import logs

_log: Final = logs.logger("console")

_COOKIE: Final = "holdfast_console_attempt"
_PATH: Final = "/sign-in/provider"
_LIFE_S: Final = 600


def _provider(request: Request) -> OpenId:
    provider: OpenId | None = request.app.state.open_id
    if provider is None:
        raise HTTPException(404)
    return provider


def _back(request: Request) -> str:
    """Return where the provider sends the browser; the host is one of those that are allowed."""
    settings: ConsoleSettings = request.app.state.settings
    scheme = "https" if settings.console_https else "http"
    return f"{scheme}://{request.headers['host']}{_PATH}/back"


async def go(request: Request) -> Response:
    """Send the browser to the provider."""
    settings: ConsoleSettings = request.app.state.settings
    sessions: Sessions = request.app.state.sessions
    try:
        url, attempt = await _provider(request).begin(_back(request))
    except ProviderError as error:
        return refuse(request, str(error), 503)
    answer = RedirectResponse(url, 303)
    answer.set_cookie(
        _COOKIE,
        sessions.seal("attempt", asdict(attempt)),
        max_age=_LIFE_S,
        path=_PATH,
        secure=settings.console_https,
        httponly=True,
        samesite="lax",
    )
    return answer


async def come_back(request: Request) -> Response:
    """Take what the provider says, and begin the session."""
    answer = await _come_back(request)
    answer.delete_cookie(_COOKIE, path=_PATH)
    return answer


async def _come_back(request: Request) -> Response:
    provider = _provider(request)
    sessions: Sessions = request.app.state.sessions
    kept = sessions.opened("attempt", request.cookies.get(_COOKIE, ""), _LIFE_S)
    if kept is None:
        return refuse(request, "The sign-in took too long, or began in another browser: begin again.", 400)
    attempt = Attempt(**kept)
    if request.query_params.get("state") != attempt.state:
        return refuse(request, "The answer is of another sign-in: begin again.", 400)
    try:
        back = _back(request)
        credential = await provider.finish(attempt, f"{back}?{request.url.query}", back)
    except ProviderError as error:
        _log.warning("sign-in at the provider failed", why=str(error))
        return refuse(request, str(error), 502)
    refusal = await admit(request, credential, "")
    return refusal if refusal is not None else page(request, "signed_in.html")
