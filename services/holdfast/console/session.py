"""Who sits at the browser: one sealed cookie, and the one place that says what it lets a call claim.

The cookie is HttpOnly, SameSite=Strict and ends a fixed time after the sign-in. Without identity it holds the
tenant and the name that were chosen then; with identity also the credential, which `Clients` hands on. It is
encrypted: what a browser keeps is of no use but to a console that knows the secret.
"""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.client.approval import NOBODY, Person
from holdfast.kit.auth.role import HOLDS
from holdfast.kit.auth.rule import RULES

COOKIE: Final = "holdfast_console"
_MOST_BYTES: Final = 3900
"""Of a cookie: browsers drop one that is larger than 4 KiB with its name and attributes."""
_LONGEST_FLASH: Final = 400
"""Bytes of JSON."""


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session; `user` is empty until somebody signs in. `flash` is shown once.

    Without `csrf`, the token against forged forms, no form is taken: a browser has one from its first form
    on. With a `credential` all but the tenant is as the platform says, and `platform` may choose its tenant.
    `since` is when it began, in seconds: it ends a fixed time after, whatever is done in it.
    """

    csrf: str = ""
    tenant: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    credential: str = ""
    platform: bool = False
    flash: str = ""
    flash_kind: str = ""
    since: int = field(default_factory=lambda: int(time.time()), compare=False)

    @property
    def signed_in(self) -> bool:
        """Tell whether somebody has signed in."""
        return bool(self.tenant and (self.user or self.credential))

    @property
    def person(self) -> Person:
        """Who decides approvals from here; with a credential it says so itself."""
        return NOBODY if self.credential else Person(self.user, self.groups, self.roles)

    @property
    def claimed_user(self) -> str:
        """Whom a run is started for; with a credential that is its user, unsaid."""
        return "" if self.credential else self.user

    def may(self, call: str) -> bool:
        """Tell whether a call, as `InvokerService/CancelRun`, is worth offering; the services decide."""
        rule = RULES[f"/holdfast.v1.{call}"]
        if not self.credential:
            return True  # without identity everybody has every role
        held = frozenset[str]().union(*(HOLDS.get(role, frozenset()) for role in self.roles))
        return (not rule.roles or bool(rule.roles & held)) and (self.platform or not rule.platform)


def anonymous() -> Session:
    """Return a session of nobody, with a fresh token against forged forms."""
    return Session(csrf=secrets.token_urlsafe(32))


class Sessions:
    """Seals sessions into cookies and opens them; a cookie that is forged or over is nobody's."""

    def __init__(self, secret: str, ttl: float) -> None:
        # The secret has at least 32 characters and is random: one hash makes the key's length of it.
        key = hashlib.sha256(b"holdfast console cookie\0" + secret.encode()).digest()
        self._seal = Fernet(base64.urlsafe_b64encode(key))
        self.ttl = int(ttl)

    def write(self, session: Session) -> str:
        """Return the cookie's value, sealed as of when the session began, which its end is reckoned from."""
        held = {name: value for name, value in asdict(session).items() if value and name != "since"}
        return self.seal("session", held, session.since)

    def left(self, session: Session) -> int:
        """Return how many seconds a session has left; 0 if it is over."""
        return max(0, session.since + self.ttl - int(time.time()))

    def seal(self, purpose: str, content: Mapping[str, Any], since: int | None = None) -> str:
        """Return content as a cookie may hold it, good for one purpose; its age is reckoned from `since`."""
        since = int(time.time()) if since is None else since
        return self._seal.encrypt_at_time(_json([purpose, content]), since).decode()

    def opened(self, purpose: str, cookie: str, ttl: int) -> dict[str, Any] | None:
        """Return what was sealed here for a purpose at most so many seconds ago; None for anything else."""
        try:
            found, content = json.loads(self._seal.decrypt(cookie.encode(), ttl=ttl))
        except (InvalidToken, UnicodeEncodeError):
            return None
        return content if found == purpose else None

    def fits(self, session: Session) -> bool:
        """Tell whether a cookie can hold a session, whatever is said in it later."""
        return len(self.write(replace(session, flash="x" * _LONGEST_FLASH, flash_kind="good"))) <= _MOST_BYTES

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it was not sealed here or is over."""
        held = self.opened("session", cookie, self.ttl)
        if held is None:
            return None
        # Consoles of two versions may stand side by side: what this one does not know is left out.
        known = {each.name: held[each.name] for each in fields(Session) if each.name in held}
        known |= {name: tuple(held.get(name, ())) for name in ("groups", "roles")}
        return Session(**{**known, "since": self._seal.extract_timestamp(cookie)})


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


class SessionLayer:
    """Reads the session before a request is handled and writes it back where it was changed."""

    def __init__(self, app: ASGIApp, sessions: Sessions, *, secure: bool) -> None:
        self._app = app
        self._sessions = sessions
        self._attributes = "; Path=/; HttpOnly; SameSite=Strict"
        if secure:
            self._attributes += "; Secure"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = self._sessions.read(HTTPConnection(scope).cookies.get(COOKIE, ""))
        state = scope.setdefault("state", {})
        begun = state["session"] = found or Session()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and state["session"] != begun:
                session: Session = state["session"]
                value, left = self._sessions.write(session), self._sessions.left(session)
                cookie = f"{COOKIE}={value}{self._attributes}; Max-Age={left}"
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        await self._app(scope, receive, sending)


def session_of(connection: HTTPConnection) -> Session:
    """Return the session of a request."""
    session: Session = connection.state.session
    return session


def say(connection: HTTPConnection, text: str, kind: str = "good") -> None:
    """Show a sentence on the next page, once."""
    while len(_json(text)) > _LONGEST_FLASH:
        text = f"{text[: len(text) * 9 // 10]}…"
    connection.state.session = replace(session_of(connection), flash=text, flash_kind=kind)


def said(connection: HTTPConnection) -> tuple[str, str]:
    """Take the sentence that is to be shown now, and its kind; empty if there is none."""
    session = session_of(connection)
    if session.flash:
        connection.state.session = replace(session, flash="", flash_kind="")
    return session.flash, session.flash_kind
