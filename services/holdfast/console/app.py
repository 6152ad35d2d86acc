"""The console as an ASGI application: which page is where, and what stands before them all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from holdfast.client import HoldfastError
from holdfast.console import (
    access_page,
    approval_page,
    batch_list,
    batch_new_page,
    batch_page,
    batch_review_page,
    destination_page,
    open_id_page,
    outbox_page,
    refused_page,
    run_list,
    run_page,
    schedule_page,
    sign_in,
    talk_page,
    tenant_page,
)
from holdfast.console.batch_file import WITH_FILE
from holdfast.console.clients import Clients
from holdfast.console.guard import Guard
from holdfast.console.live import over
from holdfast.console.open_id import OpenId
from holdfast.console.page import Handler, problem, refused
from holdfast.console.session import SessionLayer, Sessions, session_of
from holdfast.console.settings import ConsoleSettings

_STATIC: Final = Path(__file__).with_name("static")


def application(settings: ConsoleSettings, stopping: asyncio.Event) -> Starlette:
    """Return the console; its streams end when `stopping` is set."""
    clients = Clients(settings)
    sessions = Sessions(settings.secret(), settings.console_session_ttl)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await clients.close()

    app = Starlette(
        routes=_routes(),
        lifespan=lifespan,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=_hosts(settings), www_redirect=False),
            Middleware(
                SessionLayer,
                sessions=sessions,
                secure=settings.console_https,
            ),
            Middleware(
                Guard,
                with_file=WITH_FILE,
                most_bytes_with_file=settings.console_upload_bytes,
            ),
        ],
        exception_handlers={HoldfastError: _refused, HTTPException: _no_page},
    )
    app.state.settings, app.state.clients, app.state.stopping = settings, clients, stopping
    app.state.sessions = sessions
    app.state.open_id = OpenId(settings) if settings.console_oidc_issuer else None
    return app


def _hosts(settings: ConsoleSettings) -> list[str]:
    """Return the hosts as the middleware compares them: it takes an IPv6 address up to its first colon."""
    return ["[" if host == "[::1]" else host for host in settings.console_hosts]


def _routes() -> list[Route | Mount]:
    return [
        Route("/", _home),
        Route("/healthz", _healthy),
        Mount("/static", StaticFiles(directory=_STATIC)),
        Route("/sign-in", sign_in.show),
        Route("/sign-in", sign_in.enter, methods=["POST"]),
        Route("/sign-out", sign_in.leave, methods=["POST"]),
        Route("/sign-in/provider", open_id_page.go),
        Route("/sign-in/provider/back", open_id_page.come_back),
        _action("/act-for", sign_in.switch),
        _page("/runs", run_list.show),
        _page("/runs/live", run_list.live),
        _page("/runs/{run_id}", run_page.show, name="run"),
        _page("/runs/{run_id}/live", run_page.live),
        _action("/runs/{run_id}/{action}", run_page.act),
        _page("/approvals", approval_page.show),
        _page("/approvals/live", approval_page.live),
        _page("/approvals/{approval_id}", approval_page.show_one),
        _action("/approvals/{approval_id}/decide", approval_page.decide),
        _page("/talk", talk_page.show),
        _action("/talk", talk_page.start),
        _page("/outbox", outbox_page.show),
        _page("/outbox/{effect_id}", outbox_page.show_one),
        _action("/outbox/{effect_id}/{action}", outbox_page.act),
        _page("/destinations/edit", destination_page.show),
        _action("/destinations", destination_page.save),
        _action("/destinations/{name}/reset", outbox_page.reset),
        _page("/batches", batch_list.show),
        _page("/batches/live", batch_list.live),
        _page("/batches/new", batch_new_page.show),
        _action("/batches/new", batch_new_page.create),
        _page("/batches/{batch_id}", batch_page.show),
        _page("/batches/{batch_id}/live", batch_page.live),
        _page("/batches/{batch_id}/items", batch_page.items),
        _action("/batches/{batch_id}/items", batch_new_page.go_on),
        _page("/batches/{batch_id}/export", batch_page.export),
        _page("/batches/{batch_id}/review", batch_review_page.show),
        _action("/batches/{batch_id}/judge", batch_review_page.judge),
        _action("/batches/{batch_id}/apply", batch_review_page.apply),
        _action("/batches/{batch_id}/do/{action}", batch_page.act),
        _page("/schedules", schedule_page.show),
        _page("/schedules/of", schedule_page.show_one),
        _page("/schedules/new", schedule_page.show_new),
        _page("/schedules/edit", schedule_page.show_edit),
        _page("/schedules/preview", schedule_page.preview),
        _action("/schedules", schedule_page.save),
        _action("/schedules/edit", schedule_page.change),
        _action("/schedules/do/{action}", schedule_page.act),
        _page("/refused", refused_page.show),
        _action("/refused/{event_id:int}/{action}", refused_page.act),
        _page("/tokens", access_page.show),
        _action("/tokens", access_page.make),
        _action("/tokens/{token_id}/revoke", access_page.revoke),
        _page("/audit", access_page.audit),
        _page("/tenants", tenant_page.show),
        _page("/tenants/{tenant}", tenant_page.show_one),
        _action("/tenants/{tenant}", tenant_page.change),
    ]


def _page(path: str, handler: Handler, name: str | None = None) -> Route:
    return Route(path, _known(handler), name=name, methods=["GET"])


def _action(path: str, handler: Handler) -> Route:
    return Route(path, _known(handler), methods=["POST"])


def _known(handler: Handler) -> Handler:
    """Let in only who has signed in."""

    async def guarded(request: Request) -> Response:
        if not session_of(request).signed_in:
            if request.url.path.endswith("/live"):  # a stream cannot be sent elsewhere
                return over(request)
            return RedirectResponse("/sign-in", 303)
        await request.app.state.clients.tidy()
        return await handler(request)

    return guarded


async def _home(request: Request) -> Response:
    del request
    return RedirectResponse("/runs", 303)


async def _healthy(request: Request) -> Response:
    del request
    return PlainTextResponse("ok\n")


async def _refused(request: Request, error: Any) -> Response:
    if request.url.path.endswith("/live"):
        return PlainTextResponse(f"{error.message}\n", 502)
    return refused(request, error)


async def _no_page(request: Request, error: Any) -> Response:
    if error.status_code == 404:  # noqa: PLR2004 - what the page is about
        return problem(request, "No such page", "Nothing is here.", "Begin at the runs.", 404)
    return PlainTextResponse(f"{error.detail}\n", error.status_code)
