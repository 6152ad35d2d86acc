"""Makes destinations and effects for tests of the outbox."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from holdfast.kit.db import Database
from holdfast.ledger import SESSION_SETTINGS, destination
from holdfast.ledger.destination import Destination
from holdfast.ledger.outbox import StagedEffect


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Connect as a dispatcher would."""
    async with await Database.connect(url, application_name="test", server_settings=SESSION_SETTINGS) as db:
        yield db


def staged(destination: str, *, key: str | None = None, **more: Any) -> StagedEffect:
    """Return an effect with an id and a key of its own."""
    effect_id = more.pop("effect_id", None) or uuid.uuid4()
    return StagedEffect(
        effect_id=effect_id,
        tenant=more.pop("tenant", "default"),
        destination=destination,
        idempotency_key=str(effect_id) if key is None else key,
        body=more.pop("body", b'{"n":1}'),
        **more,
    )


async def make_destination(db: Database, name: str, *, tenant: str = "default", **more: Any) -> Destination:
    """Put a destination that nobody answers at, unless `url` says more."""
    url = more.pop("url", "http://127.0.0.1:9/hook")
    async with db.connection() as connection:
        view = await destination.put(connection, Destination(tenant, name, url, **more))
    return view.destination
