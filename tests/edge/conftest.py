"""The edge over real HTTP before a real Invoker; and whoever sends webhooks, signing for himself."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.edge.declaration import sources_of
from holdfast.edge.intake import Intake
from holdfast.edge.serving import serve
from holdfast.edge.settings import EdgeSettings
from holdfast.edge.source import HttpSource
from holdfast.kit.secret import Secrets
from tests.invoker.stand import Invoker, invoker
from tests.support.sending import GITHUB_SECRET, STANDARD_SECRET, STRIPE_SECRET

SECRETS = {
    "HOLDFAST_SECRET_STANDARD": STANDARD_SECRET,
    "HOLDFAST_SECRET_GH": GITHUB_SECRET,
    "HOLDFAST_SECRET_STRIPE": STRIPE_SECRET,
}
DECLARED: dict[str, Any] = {
    "standard": {"path": "/standard", "verify": "standard-webhooks", "secret": "standard"},
    "gh": {"path": "/gh", "verify": "github", "secret": "gh", "add": {"event": "header.X-GitHub-Event"}},
    "stripe": {"path": "/stripe", "verify": "stripe", "secret": "stripe"},
    "open": {"path": "/open", "verify": "none"},
    "ce": {"path": "/ce", "verify": "none", "format": "cloudevents"},
}


@dataclass
class Edge:
    """An edge in this process, and the ledger behind its Invoker."""

    http: httpx.AsyncClient
    door: Invoker
    address: str

    async def runs(self, columns: str = "idempotency_key") -> list[Any]:
        """Return the runs there are, in order, by their keys."""
        async with self.door.parts.db.connection() as connection:
            rows = await connection.fetch(f"SELECT {columns} FROM run ORDER BY seq")
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]

    async def aside(self) -> list[tuple[str, str, str]]:
        """Return what is set aside: source, key and reason."""
        async with self.door.parts.db.connection() as connection:
            rows = await connection.fetch(
                "SELECT source, idempotency_key, reason FROM run_inbox_refused ORDER BY seq"
            )
        return [tuple(row) for row in rows]

    async def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        """Send a webhook; JSON unless the headers say otherwise."""
        told = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post(path, content=body, headers=told)


@asynccontextmanager
async def edge(
    door: Invoker,
    declared: Mapping[str, Any] = DECLARED,
    *,
    secrets: Mapping[str, str] = SECRETS,
    folder: Path | None = None,
    **settings: Any,
) -> AsyncIterator[Edge]:
    """Serve webhooks."""
    told = EdgeSettings(listen="127.0.0.1:0", invoker_address=door.address, accept_timeout=3.0, **settings)
    sources = sources_of({"http": {name: {"intent": "hook"} | dict(one) for name, one in declared.items()}})
    known = Secrets(secrets, folder)
    intake = Intake(told, known)
    stop = asyncio.Event()
    place: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    hooks = [source for source in sources if isinstance(source, HttpSource)]
    serving = asyncio.create_task(serve(told, hooks, intake, known, stop=stop, ready=place.set_result))
    try:
        address = await asyncio.wait_for(place, 10)
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=20) as http:
            yield Edge(http, door, address)
    finally:
        stop.set()
        await serving
        await intake.close()


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Invoker]:
    """An Invoker that knows the intent `hook`; its runs wait, as nobody serves it."""
    async with invoker(database_url) as one:
        one.parts.intents.add(["hook"])
        yield one


@pytest.fixture
async def hooks(door: Invoker) -> AsyncIterator[Edge]:
    """The edge with a source of each kind."""
    async with edge(door) as one:
        yield one


def now() -> int:
    return int(time.time())
