"""A tenant hears of each effect set aside, exactly once, and never of an alert that was."""

import asyncio
import json
import uuid
from typing import Any

import pytest

from holdfast.dispatcher.breaker import judge
from holdfast.kit.db import Database
from holdfast.ledger import outbox_person, tenant
from holdfast.ledger.alert import EFFECT_ALERT, RUN_ALERT
from holdfast.ledger.domain.delivery import DeliveryMode, EffectStatus
from holdfast.ledger.outbox_claim import claim
from holdfast.ledger.outbox_settle import settle, settle_in
from holdfast.ledger.outbox_sweep import sweep
from tests.support.ledger import fetch
from tests.support.outbox import (
    came_of,
    check_places,
    expire,
    make_destination,
    open_session,
    stage,
    staged,
)

DEAD = EffectStatus.DEAD_LETTERED


async def listening(db: Database) -> None:
    await make_destination(db, "letters")
    await make_destination(db, "pager")
    await tenant.change(db, "default", {"alert_destination": "pager"}, make=True)


async def alerts(db: Database) -> list[Any]:
    rows = await fetch(
        db,
        """SELECT e.body FROM effect e WHERE starts_with(e.idempotency_key, $1) ORDER BY e.seq""",
        EFFECT_ALERT,
    )
    return [json.loads(row["body"]) for row in rows]


async def all_die(db: Database, session: uuid.UUID) -> int:
    """Let everything that is due be set aside."""
    deliveries = (await claim(db, session, wanted=99)).deliveries
    return len(await settle(db, session, [came_of(one, DEAD) for one in deliveries], judge))


async def test_an_effect_that_is_set_aside_is_told_of_with_its_cause(db: Database) -> None:
    await listening(db)
    effect = staged("letters", key="k", step="post#1", run_id=uuid.uuid4())
    await stage(db, effect)
    session = await open_session(db)
    assert await all_die(db, session) == 1
    (alert,) = await alerts(db)
    assert alert["failure"]["reason"] == "HTTP_500"
    assert alert | {"failure": 0} == {
        "type": "effect.dead_lettered",
        "effect_id": str(effect.effect_id),
        "destination": "letters",
        "idempotency_key": "k",
        "run_id": str(effect.run_id),
        "step": "post#1",
        "attempts": 1,
        "failure": 0,
    }
    (due,) = (await claim(db, session, wanted=9)).deliveries
    assert due.destination.name == "pager"
    await check_places(db)


async def test_an_alert_that_dies_makes_none_whatever_it_was_of(db: Database) -> None:
    await listening(db)
    await stage(db, staged("letters"), staged("pager", key=f"{RUN_ALERT}{uuid.uuid4()}/1"))
    session = await open_session(db)
    rounds = 0
    while await all_die(db, session):
        rounds += 1
        assert rounds < 5
    assert rounds == 2, "the effect, then its alert"
    assert len(await alerts(db)) == 1
    assert len(await fetch(db, "SELECT FROM effect")) == 3


async def test_an_effect_for_the_listener_itself_that_dies_is_told_of_once(db: Database) -> None:
    await listening(db)
    await stage(db, staged("pager"))
    session = await open_session(db)
    while await all_die(db, session):
        pass
    assert len(await alerts(db)) == 1


async def test_it_is_told_again_of_what_a_person_sent_again_and_never_twice_of_one_death(
    db: Database,
) -> None:
    await listening(db)
    effect = staged("letters")
    await stage(db, effect)
    session = await open_session(db)
    (delivery,) = (await claim(db, session, wanted=9)).deliveries
    for _ in range(2):
        await settle(db, session, [came_of(delivery, DEAD)], judge)
    assert len(await alerts(db)) == 1
    await outbox_person.retry(db, "default", effect.effect_id)
    await all_die(db, session)
    assert [alert["attempts"] for alert in await alerts(db)] == [1, 2]


async def test_an_effect_lost_with_its_dispatcher_is_told_of_once_however_many_sweep(db: Database) -> None:
    await listening(db)
    await make_destination(db, "once", mode=DeliveryMode.AT_MOST_ONCE)
    await stage(db, staged("once"))
    session = await open_session(db)
    await claim(db, session, wanted=9)
    await expire(db, session)
    await asyncio.gather(*(sweep(db) for _ in range(4)))
    (alert,) = await alerts(db)
    assert alert["failure"]["reason"] == "DISPATCHER_LOST"


async def test_of_many_set_aside_together_is_told_together(db: Database) -> None:
    await listening(db)
    session = await open_session(db)
    counts: list[int] = []
    for many in (2, 14):
        await stage(db, *(staged("letters") for _ in range(many)))
        deliveries = [
            one
            for one in (await claim(db, session, wanted=99)).deliveries
            if one.destination.name == "letters"
        ]
        asked: list[str] = []
        async with db.transaction() as connection:
            with connection.query_logger(lambda record, asked=asked: asked.append(record.query)):
                await settle_in(connection, session, [came_of(one, DEAD) for one in deliveries], judge)
        counts.append(len(asked))
    assert len(await alerts(db)) == 16
    assert counts[1] <= counts[0]


async def test_one_of_whom_nobody_can_be_told_keeps_no_other_from_it(db: Database) -> None:
    await listening(db)
    await make_destination(db, "letters", tenant="other")
    await tenant.change(db, "other", {"alert_destination": "gone"}, make=True)
    effects = [staged("letters") for _ in range(5)]
    await stage(db, *effects, staged("letters", tenant="other"))
    taken = staged("letters", key=f"{EFFECT_ALERT}{effects[2].effect_id}/1", body=b"{}")
    session = await open_session(db)
    deliveries = (await claim(db, session, wanted=99)).deliveries
    await stage(db, taken)
    assert len(await settle(db, session, [came_of(one, DEAD) for one in deliveries], judge)) == 6
    told = {alert.get("effect_id") for alert in await alerts(db)}
    assert told == {None, *(str(effect.effect_id) for effect in effects)} - {str(effects[2].effect_id)}
    await check_places(db)


@pytest.mark.parametrize("trouble", ["no destination", "a taken key", "nobody listens", "another tenant"])
async def test_an_effect_is_set_aside_though_nobody_can_be_told(db: Database, trouble: str) -> None:
    await make_destination(db, "letters")
    if trouble != "nobody listens":
        name = "default" if trouble != "another tenant" else "other"
        await tenant.change(db, name, {"alert_destination": "pager"}, make=True)
    effect = staged("letters")
    await stage(db, effect)
    session = await open_session(db)
    if trouble == "a taken key":
        await make_destination(db, "pager")
        taken = staged("letters", key=f"{EFFECT_ALERT}{effect.effect_id}/1", body=b"{}")
        (delivery,) = (await claim(db, session, wanted=1)).deliveries
        await stage(db, taken)
        await settle(db, session, [came_of(delivery, DEAD)], judge)
    else:
        await all_die(db, session)
    rows = await fetch(db, "SELECT status FROM effect WHERE effect_id = $1", effect.effect_id)
    assert rows[0]["status"] == DEAD
    assert len(await alerts(db)) == (trouble == "a taken key")
    await check_places(db)
