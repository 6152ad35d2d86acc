"""An OpenID provider that speaks the protocol: it sends browsers back with codes, and takes each once."""

import asyncio
import base64
import hashlib
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.issuer import AUDIENCE, Key

CLIENT_ID, CLIENT_SECRET = "console", "pst"


class Provider:
    """Signs everybody in as ada; `claims` change her ID token, `fails` is what it says instead of a code.

    `described` changes its configuration.
    """

    def __init__(self, key: Key, url: str) -> None:
        self.url = url
        self.claims: dict[str, Any] = {}
        self.fails = ""
        self.described: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}
        self._key = key
        self._codes: dict[str, dict[str, str]] = {}

    def app(self) -> Starlette:
        """Return it as an application."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._describe),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    async def _describe(self, _request: Request) -> Response:
        endpoints = {f"{name}_endpoint": f"{self.url}/{path}" for name, path in _PATHS.items()}
        own = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **endpoints}
        return JSONResponse({**own, **self.described})

    async def _authorize(self, request: Request) -> Response:
        asked = self.asked = dict(request.query_params)
        if self.fails:
            answer = {"error": self.fails, "state": asked["state"]}
        else:
            code = secrets.token_urlsafe(8)
            self._codes[code] = asked
            answer = {"code": code, "state": asked["state"]}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 303)

    async def _token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self._codes.pop(form.get("code", ""), None)
        client = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or request.headers.get("authorization") != f"Basic {client}"
            or asked["code_challenge_method"] != "S256"
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form["redirect_uri"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        claims = {"iss": self.url, "aud": CLIENT_ID, "nonce": asked["nonce"], **self.claims}
        tokens = {"id_token": self._key.sign(claims), "access_token": self._key.sign({"iss": self.url})}
        return JSONResponse({**tokens, "token_type": "Bearer", "expires_in": 300})


_PATHS = {"authorization": "authorize", "token": "token"}
assert AUDIENCE == "holdfast"  # of the access token: the services'


@asynccontextmanager
async def providing(key: Key) -> AsyncIterator[Provider]:
    """Run a provider on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider = Provider(key, f"http://127.0.0.1:{listener.getsockname()[1]}")
        web = uvicorn.Server(uvicorn.Config(provider.app(), log_config=None, access_log=False))
        serving = asyncio.create_task(web.serve(sockets=[listener]))
        try:
            yield provider
        finally:
            web.should_exit = True
            await serving
