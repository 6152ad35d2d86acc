"""A stand-in CRM: accounts have an industry, which is set, and put back, at most once per idempotency key.

`POST /tag` and `POST /untag` take an item of a batch as its effects carry it; `GET /accounts/KEY` tells an
account's industry, `GET /stats` counts. It lives on loopback and forgets everything when it ends.
"""

import argparse
import asyncio
from collections import Counter
from types import TracebackType
from typing import Any, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.standins.serving import Connections, LoopbackServer, refuse_busy_port, serve_until_signalled


class Crm:
    """The stand-in on a loopback port, from `async with` to its end."""

    def __init__(self, *, port: int = 0) -> None:
        self.industries: dict[str, str] = {}
        """What each account is tagged with; those nobody has tagged are not in it."""
        self.changes: Counter[str] = Counter()
        """How often each account was changed."""
        self.order: list[str] = []
        """The keys of the changes, as they came."""
        self.repeated = 0
        """Deliveries of an idempotency key that was there before."""
        self._seen: set[str] = set()
        self.connections = Connections()
        routes = [
            Route("/tag", self._tag, methods=["POST"]),
            Route("/untag", self._untag, methods=["POST"]),
            Route("/accounts/{key}", self._account, methods=["GET"]),
            Route("/stats", self._stats, methods=["GET"]),
        ]
        self._server = LoopbackServer(Starlette(routes=routes), self.connections, port)
        self.url = self._server.origin

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    async def _tag(self, request: Request) -> Response:
        item = await request.json()
        return self._set(request, item, item["output"])

    async def _untag(self, request: Request) -> Response:
        item = await request.json()
        return self._set(request, item, item.get("current") or {})

    def _set(self, request: Request, item: dict[str, Any], values: dict[str, Any]) -> Response:
        idempotency_key = request.headers["idempotency-key"]
        if idempotency_key in self._seen:
            self.repeated += 1
            return JSONResponse({"changed": False})
        self._seen.add(idempotency_key)
        self.industries[item["key"]] = values.get("industry", "unknown")
        self.changes[item["key"]] += 1
        self.order.append(item["key"])
        return JSONResponse({"changed": True})

    async def _account(self, request: Request) -> Response:
        key = request.path_params["key"]
        return JSONResponse({"key": key, "industry": self.industries.get(key, "unknown")})

    async def _stats(self, _request: Request) -> Response:
        tagged = Counter(self.industries.values())
        return JSONResponse(
            {"changes": self.changes.total(), "repeated": self.repeated, "industries": dict(tagged)}
        )


def main() -> None:
    """Serve until SIGINT or SIGTERM; the first line printed is `{"url": "http://127.0.0.1:PORT"}`."""
    parser = argparse.ArgumentParser(prog="crm", description="A stand-in CRM.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()
    asyncio.run(_serve(parser, options))


async def _serve(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    try:
        crm = Crm(port=options.port)
    except OSError as error:
        refuse_busy_port(parser, options.port, error)
        return
    await serve_until_signalled(crm)


if __name__ == "__main__":
    main()
