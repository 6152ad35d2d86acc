"""The edge as an ASGI application: a path for each source, and how many requests there may be at once."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.edge.hook import Hook
from holdfast.edge.intake import Intake
from holdfast.edge.source import HttpSource
from holdfast.kit.secret import Secrets


def application(
    sources: Sequence[HttpSource], intake: Intake, secrets: Secrets, *, at_once: int
) -> Starlette:
    """Return the application."""
    hooks = [
        Route(source.path, Hook(source, intake, secrets).__call__, methods=["POST"]) for source in sources
    ]
    return Starlette(
        routes=[Route("/healthz", _healthy), *hooks],
        middleware=[Middleware(Limit, at_once=at_once)],
        exception_handlers={HTTPException: _no_source},
    )


class Limit:
    """Lets so many requests in at once; the others are told to come again."""

    def __init__(self, app: ASGIApp, at_once: int) -> None:
        self._app = app
        self._free = at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
        elif self._free == 0:
            headers = {"retry-after": "1", "connection": "close"}
            busy = JSONResponse(
                {"error": "Too many requests at once."}, HTTPStatus.SERVICE_UNAVAILABLE, headers
            )
            await busy(scope, receive, send)
        else:
            self._free -= 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._free += 1


async def _healthy(request: Request) -> Response:
    del request
    return PlainTextResponse("ok\n")


async def _no_source(request: Request, error: Any) -> Response:
    del request
    sentence = {404: "No source has this path.", 405: "Events are POSTed."}.get(
        error.status_code, error.detail
    )
    return JSONResponse({"error": sentence}, error.status_code, error.headers)
