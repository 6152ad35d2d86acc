"""Makes destinations and effects for tests of the outbox."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from holdfast.kit.db import Database
from holdfast.ledger import SESSION_SETTINGS, destination, outbox, outbox_inspect, outbox_session
from holdfast.ledger.destination import Destination
from holdfast.ledger.domain.delivery import BreakerVote, EffectStatus, Verdict
from holdfast.ledger.outbox import StagedEffect
from holdfast.ledger.outbox_claim import Delivery
from holdfast.ledger.outbox_inspect import EffectView
from holdfast.ledger.outbox_settle import Settlement
from holdfast.ledger.values import Failure


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


async def stage(db: Database, *effects: StagedEffect) -> None:
    """Commit effects, as a step would."""
    async with db.transaction() as connection:
        await outbox.stage(connection, effects)


async def open_session(db: Database, ttl_s: float = 60.0) -> uuid.UUID:
    """Open a dispatcher's session."""
    session_id = uuid.uuid4()
    async with db.connection() as connection:
        await outbox_session.open_session(connection, session_id, ttl_s)
    return session_id


async def expire(db: Database, session_id: uuid.UUID) -> None:
    """Let a session's time be over."""
    async with db.connection() as connection:
        await outbox_session.close_session(connection, session_id)


def came_of(
    delivery: Delivery, status: EffectStatus = EffectStatus.DELIVERED, *, delay_s: float = 0.0, **more: Any
) -> Settlement:
    """Return what came of a delivery: by default the destination has it."""
    failed = status is not EffectStatus.DELIVERED
    return Settlement(
        effect_id=delivery.effect_id,
        epoch=delivery.epoch,
        destination_id=delivery.destination.destination_id,
        ordering_key=delivery.ordering_key,
        verdict=Verdict(status, delivery.attempts + 1, delivery.spent + 1, delay_s),
        vote=more.pop("vote", BreakerVote.FAILS if failed else BreakerVote.WORKS),
        probe=delivery.probe,
        http_status=500 if failed else 200,
        failure=Failure("HTTP_500", "It answered 500.") if failed else None,
        duration_s=0.01,
        **more,
    )


async def view_of(db: Database, effect_id: uuid.UUID, tenant: str = "default") -> EffectView:
    """Read an effect as a person would."""
    async with db.connection() as connection:
        return await outbox_inspect.get(connection, tenant, effect_id)


async def check_places(db: Database) -> None:
    """Check that each pending effect is in exactly one place, each lane has one head that is not waiting."""
    async with db.connection() as connection:
        lost = await connection.fetch(
            """
            SELECT e.effect_id, e.status, count(place.effect_id) FROM effect e LEFT JOIN (
                SELECT effect_id FROM effect_due UNION ALL SELECT effect_id FROM effect_waiting
                UNION ALL SELECT effect_id FROM effect_lease) place USING (effect_id)
            GROUP BY e.effect_id HAVING count(place.effect_id) <> CASE WHEN e.status = 1 THEN 1 ELSE 0 END
            """
        )
        assert lost == []
        wrong_heads = await connection.fetch(
            """
            SELECT destination_id, ordering_key, count(lane.head)
            FROM (SELECT destination_id, ordering_key, effect_id FROM effect_due
                  UNION ALL SELECT destination_id, ordering_key, effect_id FROM effect_lease) ahead
            FULL JOIN effect_lane lane USING (destination_id, ordering_key)
            WHERE ordering_key <> '' AND lane.head IS DISTINCT FROM ahead.effect_id
            GROUP BY 1, 2
            """
        )
        assert wrong_heads == []
