"""No form of another site acts here: origin and token of every POST are checked in one place, and logged.

It also sends the headers that confine a page: scripts, styles and connections are the console's own, none
inline. A link of another site comes without the session's cookie, which is SameSite=Strict: it is answered by
a page that asks for the same again, now as the console's own, for which browsers send the cookie.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import FormData, Headers, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.console.session import Session
from holdfast.kit.telemetry import logs

_log: Final = logs.logger("console")

MOST_BYTES: Final = 1024 * 1024
_MOST_FIELDS: Final = 500
_FORM: Final = "application/x-www-form-urlencoded"
_WITH_FILE: Final = "multipart/form-data"
_OVER: Final = "The form is not of this session, or it is over: go back, reload the page and try again."
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
    """Lets a request pass, or refuses it before anything has happened.

    A form with a file, which goes to the disk as it comes, is taken from whoever has signed in, at the paths
    that end so.
    """

    def __init__(self, app: ASGIApp, *, with_file: tuple[str, ...], most_bytes_with_file: int) -> None:
        self._app = app
        self._with_file = with_file
        self._most_bytes_with_file = most_bytes_with_file

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
        session: Session = scope["state"]["session"]
        facts = {"path": scope["path"], "tenant": session.tenant, "user": session.user}
        try:
            sent = await self._read(scope, receive)
        except _Refused as refusal:
            _log.warning("action refused", why=str(refusal), **facts)
            await PlainTextResponse(f"{refusal}\n", refusal.status)(scope, receive, send)
            return
        parts = sent.multi_items()
        scope["state"]["form"] = {name: value for name, value in parts if isinstance(value, str)}
        scope["state"]["files"] = {name: value for name, value in parts if isinstance(value, UploadFile)}

        async def logged(message: Message) -> None:
            if message["type"] == "http.response.start":
                _log.info("action", status=message["status"], **facts)
            await send(message)

        try:
            await self._app(scope, receive, logged)
        finally:
            await sent.close()

    async def _read(self, scope: Scope, receive: Receive) -> FormData:
        """Return the form of a POST that may act; whoever has it closes it. Raises `_Refused`."""
        headers, session = Headers(scope=scope), scope["state"]["session"]
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == _WITH_FILE and scope["path"].endswith(self._with_file):
            _refuse_foreign(headers)
            if not session.signed_in:
                raise _Refused(_OVER)
            sent = await _with_file(headers, receive, self._most_bytes_with_file)
        elif kind == _FORM:
            sent = FormData(_parsed(await _whole(receive)))
        else:
            raise _Refused("The console takes forms only.")
        try:
            _refuse_forged(headers, sent, session)
        except _Refused:
            await sent.close()
            raise
        return sent


class _Refused(Exception):  # noqa: N818 - what happened, as the names of the faults have it
    """A POST is not taken; the text says why."""

    def __init__(self, why: str, status: int = 403) -> None:
        super().__init__(why)
        self.status = status


def _is_led_here(scope: Scope) -> bool:
    """Tell whether another site has led a browser here without its session.

    Browsers say so over TLS and on loopback (Fetch Metadata Request Headers, W3C).
    """
    headers, session = Headers(scope=scope), scope["state"]["session"]
    led = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate"
    return led and not session.csrf


def _refuse_foreign(headers: Headers) -> None:
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc != headers.get("host"):
        raise _Refused("The form does not come from this console: its Origin is another.")


def _refuse_forged(headers: Headers, form: FormData, session: Session) -> None:
    _refuse_foreign(headers)
    given = headers.get("x-csrf-token") or form.get("csrf", "")
    matches = isinstance(given, str) and secrets.compare_digest(given.encode(), session.csrf.encode())
    if not session.csrf or not matches:
        raise _Refused(_OVER)


async def _with_file(headers: Headers, receive: Receive, most_bytes: int) -> FormData:
    """Return a form with its file, which is on the disk if it is large; whoever has it closes it."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > most_bytes + MOST_BYTES:
        raise _too_large(most_bytes)

    async def parts() -> AsyncGenerator[bytes]:
        left = most_bytes + MOST_BYTES
        async for part in _body(receive):
            left -= len(part)
            if left < 0:
                raise MultiPartException(str(_too_large(most_bytes)))
            yield part

    parser = MultiPartParser(headers, parts(), max_files=1, max_fields=_MOST_FIELDS, max_part_size=MOST_BYTES)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise _Refused(f"The form cannot be read: {error.message}", 400) from error


def _too_large(most_bytes: int) -> _Refused:
    return _Refused(f"The file is larger than {most_bytes / MOST_BYTES:g} MiB.", 413)


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


def file_of(request: HTTPConnection, name: str) -> UploadFile | None:
    """Return a file that a POST brought; None if none was chosen."""
    found: UploadFile | None = request.state.files.get(name)
    return found if found is not None and found.filename else None


async def _whole(receive: Receive) -> bytes:
    """Return the whole body."""
    whole = bytearray()
    async for part in _body(receive):
        whole += part
        if len(whole) > MOST_BYTES:
            raise _Refused("The form is larger than 1 MiB.", 413)
    return bytes(whole)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
