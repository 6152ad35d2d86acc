"""No form of another site acts here: origin and token of every POST are checked in one place, and logged.

It also sends the headers that confine a page: scripts, styles and connections are the console's own, none
inline. A link of another site comes without the session's cookie, which is SameSite=Strict: it is answered by
a page that asks for the same again, now as the console's own, for which browsers send the cookie.
"""

import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.console.session import Session
from holdfast.kit.telemetry import logs

_log: Final = logs.logger("console")

MOST_BYTES: Final = 1024 * 1024
_MOST_FIELDS: Final = 500
_SAFE: Final = frozenset({"GET", "HEAD"})
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


_AGAIN: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0">'
    '<title>Holdfast</title><p>This page opens by itself. <a href="">Open it</a></p></html>'
)
"""The page that asks for itself again; it names no URL, so none that somebody made up."""


class Guard:
    """Lets a request pass, or refuses it before anything has happened."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if scope["method"] in _SAFE:
            answer = HTMLResponse(_AGAIN) if _is_led_here(scope) else self._app
            await answer(scope, receive, confined)
        elif scope["method"] != "POST":
            await PlainTextResponse("The console takes GET and POST.\n", 405)(scope, receive, confined)
        else:
            await self._act(scope, receive, confined)

    async def _act(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole(receive)
        session: Session = scope["state"]["session"]
        form = scope["state"]["form"] = _parsed(body or b"")
        status = 413 if body is None else 403
        refusal = (
            "The form is larger than 1 MiB."
            if body is None
            else _refusal(Headers(scope=scope), form, session)
        )
        facts = {"path": scope["path"], "tenant": session.tenant, "user": session.user}
        if refusal:
            _log.warning("action refused", why=refusal, **facts)
            await PlainTextResponse(refusal + "\n", status)(scope, receive, send)
            return

        async def logged(message: Message) -> None:
            if message["type"] == "http.response.start":
                _log.info("action", status=message["status"], **facts)
            await send(message)

        await self._app(scope, receive, logged)


def _is_led_here(scope: Scope) -> bool:
    """Tell whether another site has led a browser here without its session.

    Browsers say so over TLS and on loopback (Fetch Metadata Request Headers, W3C).
    """
    headers, session = Headers(scope=scope), scope["state"]["session"]
    led = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate"
    return led and not session.csrf


def _refusal(headers: Headers, form: Mapping[str, str], session: Session) -> str:
    """Return why a POST is not taken; empty if it is."""
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        return "The console takes forms only."
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc != headers.get("host"):
        return "The form does not come from this console: its Origin is another."
    given = headers.get("x-csrf-token") or form.get("csrf", "")
    if not session.csrf or not secrets.compare_digest(given.encode(), session.csrf.encode()):
        return "The form is not of this session, or it is over: go back, reload the page and try again."
    return ""


def _parsed(body: bytes) -> dict[str, str]:
    """Return the fields of a form, the last of each name; none of one that is malformed."""
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        return {}


def form_of(request: HTTPConnection) -> Mapping[str, str]:
    """Return the form that a POST brought."""
    form: Mapping[str, str] = request.state.form
    return form


async def _whole(receive: Receive) -> bytes | None:
    """Return the whole body; None if it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)
