"""Who sits at the browser: one signed cookie, and the one place that says what it lets a call claim.

The cookie is HttpOnly, SameSite=Strict and ends by itself. Today it holds the tenant and the name that were
chosen at sign-in. `Session.credential` is the seam: where callers have tokens, the token is what is held
there, and `Clients` hands it on.
"""

import secrets
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import jwt
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.client import Person

COOKIE: Final = "holdfast_console"
_ALGORITHM: Final = "HS256"


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session; `user` is empty until somebody signs in. `flash` is shown once."""

    csrf: str
    tenant: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    credential: str = ""
    flash: str = ""
    flash_kind: str = ""

    @property
    def signed_in(self) -> bool:
        """Tell whether somebody has signed in."""
        return bool(self.user and self.tenant)

    @property
    def person(self) -> Person:
        """Who decides approvals from here."""
        return Person(self.user, self.groups, self.roles)


def anonymous() -> Session:
    """Return a session of nobody, with a fresh token against forged forms."""
    return Session(csrf=secrets.token_urlsafe(32))


class Sessions:
    """Signs sessions into cookies and reads them back; a cookie that is forged or over is nobody's."""

    def __init__(self, secret: str, ttl: float) -> None:
        self._secret = secret
        self.ttl = int(ttl)

    def write(self, session: Session) -> str:
        """Return the cookie's value."""
        claims = {
            "csrf": session.csrf,
            "tenant": session.tenant,
            "user": session.user,
            "groups": list(session.groups),
            "roles": list(session.roles),
            "credential": session.credential,
            "flash": session.flash,
            "flash_kind": session.flash_kind,
            "exp": int(time.time()) + self.ttl,
        }
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM)

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it was not signed here or is over."""
        try:
            claims: dict[str, Any] = jwt.decode(
                cookie, self._secret, algorithms=[_ALGORITHM], options={"require": ["exp"]}
            )
        except jwt.InvalidTokenError:
            return None
        return Session(
            csrf=str(claims["csrf"]),
            tenant=str(claims["tenant"]),
            user=str(claims["user"]),
            groups=tuple(claims["groups"]),
            roles=tuple(claims["roles"]),
            credential=str(claims["credential"]),
            flash=str(claims["flash"]),
            flash_kind=str(claims["flash_kind"]),
        )


class SessionLayer:
    """Reads the session before a request is handled and writes it back where it was changed."""

    def __init__(self, app: ASGIApp, sessions: Sessions, *, secure: bool) -> None:
        self._app = app
        self._sessions = sessions
        self._attributes = f"; Path=/; HttpOnly; SameSite=Strict; Max-Age={sessions.ttl}"
        if secure:
            self._attributes += "; Secure"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cookie = HTTPConnection(scope).cookies.get(COOKIE, "")
        found = self._sessions.read(cookie)
        state = scope.setdefault("state", {})
        state["session"] = found or anonymous()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and state["session"] != found:
                value = self._sessions.write(state["session"])
                MutableHeaders(scope=message).append("set-cookie", f"{COOKIE}={value}{self._attributes}")
            await send(message)

        await self._app(scope, receive, sending)


def session_of(connection: HTTPConnection) -> Session:
    """Return the session of a request."""
    session: Session = connection.state.session
    return session


def say(connection: HTTPConnection, text: str, kind: str = "good") -> None:
    """Show a sentence on the next page, once."""
    connection.state.session = replace(session_of(connection), flash=text[:500], flash_kind=kind)


def said(connection: HTTPConnection) -> tuple[str, str]:
    """Take the sentence that is to be shown now, and its kind; empty if there is none."""
    session = session_of(connection)
    if session.flash:
        connection.state.session = replace(session, flash="", flash_kind="")
    return session.flash, session.flash_kind
