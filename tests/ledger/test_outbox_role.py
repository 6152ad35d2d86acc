"""The dispatcher's role does all that a dispatcher does, and nothing about runs."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from holdfast.dispatcher.breaker import judge
from holdfast.kit.db import Database
from holdfast.ledger import (
    SESSION_SETTINGS,
    destination,
    outbox_inspect,
    outbox_person,
    tenant,
)
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.outbox_claim import claim
from holdfast.ledger.outbox_inspect import EffectFilter
from holdfast.ledger.outbox_look import look
from holdfast.ledger.outbox_settle import settle
from holdfast.ledger.outbox_sweep import sweep
from tests.support.outbox import came_of, expire, make_destination, open_database, open_session, stage, staged


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with await Database.connect(
        database_url,
        application_name="test",
        role_name="holdfast_dispatcher",
        server_settings=SESSION_SETTINGS,
    ) as db:
        yield db


async def test_every_verb_of_the_dispatcher_runs_under_its_role(db: Database, database_url: str) -> None:
    await make_destination(db, "letters")
    effects = [staged("letters", ordering_key="a") for _ in range(5)]
    async with open_database(database_url) as other:
        await stage(other, *effects)
        await make_destination(other, "pager")
        await tenant.change(other, "default", {"alert_destination": "pager"}, make=True)
    session_id = await open_session(db)
    async with db.connection() as connection:
        assert (await look(connection, session_id, 60)).alive
    for status in (EffectStatus.DELIVERED, EffectStatus.DEAD_LETTERED, EffectStatus.PENDING):
        claimed = (await claim(db, session_id, wanted=9)).deliveries
        [delivery] = [one for one in claimed if one.destination.name == "letters"]  # and the alert of it
        await settle(db, session_id, [came_of(delivery, status)], judge)
    assert len((await claim(db, session_id, wanted=9)).deliveries) == 1
    await expire(db, session_id)
    assert await sweep(db) == 3
    await outbox_person.retry(db, "default", effects[1].effect_id)
    await outbox_person.discard(db, "default", effects[4].effect_id, "why")
    async with db.connection() as connection:
        assert (
            len(await outbox_inspect.page(connection, "default", EffectFilter(), before_seq=None, limit=9))
            == 6
        )
        await destination.reset_breaker(connection, "default", "letters")
        assert await destination.page(connection, "default", "", 9)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT envelope FROM run",
        "SELECT status FROM run_state",
        "SELECT in_flight FROM tenant",
        "UPDATE tenant SET alert_destination = ''",
        "SELECT record FROM checkpoint",
        "INSERT INTO lease DEFAULT VALUES",
        "DELETE FROM effect",
        "DELETE FROM destination",
        "DELETE FROM effect_key",
        "CREATE TABLE mine (a integer)",
    ],
)
async def test_the_role_is_refused_everything_else(db: Database, statement: str) -> None:
    async with db.connection() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
