"""Leased effects: one dispatcher has each, order is kept, nothing is lost, nothing is settled twice."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from holdfast.dispatcher.breaker import judge
from holdfast.kit.db import Database
from holdfast.kit.errors import SessionUnknown
from holdfast.ledger import outbox_claim, outbox_settle
from holdfast.ledger.domain.breaker import Breaker, BreakerPolicy, Load, Permission, permit
from holdfast.ledger.domain.delivery import Answer, BreakerVote, DeliveryMode, EffectStatus, decide
from holdfast.ledger.outbox_claim import Delivery, claim
from holdfast.ledger.outbox_look import look
from holdfast.ledger.outbox_settle import settle
from holdfast.ledger.outbox_sweep import DISPATCHER_LOST, sweep
from tests.support.outbox import (
    came_of,
    check_places,
    expire,
    make_destination,
    open_database,
    open_session,
    stage,
    staged,
    view_of,
)

PENDING, DELIVERED, DEAD = EffectStatus.PENDING, EffectStatus.DELIVERED, EffectStatus.DEAD_LETTERED


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as db:
        yield db


async def take(db: Database, session_id: uuid.UUID, wanted: int = 100) -> list[Delivery]:
    return list((await claim(db, session_id, wanted=wanted)).deliveries)


async def test_an_effect_is_leased_once_and_settled_once(db: Database) -> None:
    await make_destination(db, "letters")
    effect = staged("letters", body=b'{"to":"you"}')
    await stage(db, effect)
    session_id = await open_session(db)
    [delivery] = await take(db, session_id)
    assert delivery.effect_id == effect.effect_id
    assert delivery.body == b'{"to":"you"}'
    assert delivery.destination.name == "letters"
    assert await take(db, session_id) == []
    assert (await view_of(db, effect.effect_id)).status is EffectStatus.SENDING
    assert await settle(db, session_id, [came_of(delivery)], judge) == {effect.effect_id}
    assert await settle(db, session_id, [came_of(delivery)], judge) == set()
    view = await view_of(db, effect.effect_id)
    assert (view.status, view.attempts, len(view.history)) == (DELIVERED, 1, 1)
    assert view.deliver_time is not None
    await check_places(db)


async def test_an_effect_is_not_leased_before_its_time(db: Database) -> None:
    await make_destination(db, "letters")
    session_id = await open_session(db)
    async with db.connection() as connection:
        soon = await connection.fetchval("SELECT clock_timestamp() + interval '1 hour'")
    await stage(db, staged("letters", not_before=soon))
    claimed = await claim(db, session_id, wanted=10)
    assert claimed.deliveries == ()
    assert claimed.wait_s is not None
    assert 3500 < claimed.wait_s <= 3600


async def test_parallel_claims_never_lease_one_effect_twice(db: Database) -> None:
    for name in ("a", "b", "c"):
        await make_destination(db, name, max_concurrent=1000)
    effects = [staged(random.choice("abc")) for _ in range(300)]
    await stage(db, *effects)
    sessions = [await open_session(db) for _ in range(4)]
    got: list[Delivery] = []

    async def take_until_nothing(session_id: uuid.UUID) -> None:
        while True:
            claimed = await claim(db, session_id, wanted=7)
            got.extend(claimed.deliveries)
            if not claimed.deliveries and not claimed.contended:
                return

    await asyncio.gather(*(take_until_nothing(session_id) for session_id in sessions))
    assert sorted(delivery.effect_id for delivery in got) == sorted(effect.effect_id for effect in effects)


async def test_a_lane_gives_one_effect_at_a_time_in_order_of_commits(db: Database) -> None:
    await make_destination(db, "letters")
    effects = [staged("letters", ordering_key="a") for _ in range(5)]
    await stage(db, *effects[:2])
    for effect in effects[2:]:
        await stage(db, effect)
    session_id = await open_session(db)
    seen = []
    while deliveries := await take(db, session_id):
        [delivery] = deliveries
        seen.append(delivery.effect_id)
        await settle(db, session_id, [came_of(delivery)], judge)
        await check_places(db)
    assert seen == [effect.effect_id for effect in effects]
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM effect_lane") == 0


async def test_a_lane_waits_while_its_head_waits_for_its_next_attempt(db: Database) -> None:
    await make_destination(db, "letters")
    first, second, other = (staged("letters", ordering_key=key) for key in "aab")
    await stage(db, first, second, other)
    session_id = await open_session(db)
    deliveries = {delivery.effect_id: delivery for delivery in await take(db, session_id)}
    assert set(deliveries) == {first.effect_id, other.effect_id}
    again = came_of(deliveries[first.effect_id], PENDING, delay_s=3600)
    await settle(db, session_id, [again, came_of(deliveries[other.effect_id])], judge)
    assert await take(db, session_id) == []
    await check_places(db)


async def test_a_dead_lettered_head_lets_the_next_of_its_lane_go_on(db: Database) -> None:
    await make_destination(db, "letters")
    first, second = staged("letters", ordering_key="a"), staged("letters", ordering_key="a")
    await stage(db, first, second)
    session_id = await open_session(db)
    [delivery] = await take(db, session_id)
    await settle(db, session_id, [came_of(delivery, DEAD)], judge)
    assert [delivery.effect_id for delivery in await take(db, session_id)] == [second.effect_id]
    view = await view_of(db, first.effect_id)
    assert view.status is DEAD
    assert view.last_failure is not None
    assert view.last_failure.reason == "HTTP_500"
    await check_places(db)


async def test_effects_of_a_silent_dispatcher_go_to_another_and_count_as_sent(db: Database) -> None:
    await make_destination(db, "letters")
    effect = staged("letters", ordering_key="a")
    await stage(db, effect)
    zombie, heir = await open_session(db), await open_session(db)
    [held] = await take(db, zombie)
    assert await sweep(db) == 0
    await expire(db, zombie)
    assert await sweep(db) == 2
    assert await sweep(db) == 0
    [again] = await _soon(db, heir)
    assert (again.effect_id, again.attempts, again.spent) == (effect.effect_id, 1, 1)
    assert again.epoch > held.epoch
    [lost] = (await view_of(db, effect.effect_id)).history
    assert lost.failure is not None
    assert lost.failure.reason == DISPATCHER_LOST
    await check_places(db)


async def test_a_zombies_outcome_is_refused_and_neither_moves_its_lane_nor_the_breaker(db: Database) -> None:
    assert await _zombie_is_harmless(db)


async def test_without_the_fence_a_zombie_would_break_the_order(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_settle, "_SETTLE", outbox_settle.statement("AND $1::uuid IS NOT NULL"))
    assert not await _zombie_is_harmless(db)


async def _zombie_is_harmless(db: Database) -> bool:
    """A zombie reports a dead letter while its heir is sending: may the next of the lane start meanwhile?"""
    await make_destination(db, "letters")
    first, second = staged("letters", ordering_key="a"), staged("letters", ordering_key="a")
    await stage(db, first, second)
    zombie, heir = await open_session(db), await open_session(db)
    [held] = await take(db, zombie)
    await expire(db, zombie)
    await sweep(db)
    [again] = await _soon(db, heir)
    settled = await settle(db, zombie, [came_of(held, DEAD)], judge)
    overtaken = [delivery.effect_id for delivery in await take(db, heir)]
    if settled or overtaken:
        return False
    assert await settle(db, heir, [came_of(again)], judge) == {first.effect_id}
    assert (await view_of(db, first.effect_id)).status is DELIVERED
    assert [delivery.effect_id for delivery in await take(db, heir)] == [second.effect_id]
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT failures FROM destination_state") == 0
    await check_places(db)
    return True


async def _soon(db: Database, session_id: uuid.UUID) -> list[Delivery]:
    """Take what falls due within a moment."""
    async with asyncio.timeout(10):
        while not (deliveries := await take(db, session_id)):
            pass
    return deliveries


async def test_an_expired_session_takes_nothing_and_cannot_be_prolonged(db: Database) -> None:
    await make_destination(db, "letters")
    await stage(db, staged("letters"))
    session_id = await open_session(db)
    await expire(db, session_id)
    with pytest.raises(SessionUnknown):
        await claim(db, session_id, wanted=1)
    async with db.connection() as connection:
        assert not (await look(connection, session_id, 60)).alive
    await check_places(db)


async def test_an_effect_sent_at_most_once_is_set_aside_when_its_dispatcher_is_lost(db: Database) -> None:
    await make_destination(db, "payments", mode=DeliveryMode.AT_MOST_ONCE)
    effect = staged("payments")
    await stage(db, effect)
    session_id = await open_session(db)
    await take(db, session_id)
    await expire(db, session_id)
    await sweep(db)
    view = await view_of(db, effect.effect_id)
    assert view.status is DEAD
    assert view.last_failure is not None
    assert view.last_failure.reason == DISPATCHER_LOST


async def test_no_more_calls_are_leased_than_a_destination_takes_at_once_over_all_dispatchers(
    db: Database,
) -> None:
    await make_destination(db, "letters", max_concurrent=3)
    await stage(db, *(staged("letters") for _ in range(10)))
    one, other = await open_session(db), await open_session(db)
    assert len(await take(db, one, 2)) == 2
    [third] = await take(db, other)
    assert await take(db, other) == []
    await settle(db, other, [came_of(third)], judge)
    assert len(await take(db, one)) == 1


async def test_a_rate_spreads_calls_over_all_dispatchers(db: Database) -> None:
    await make_destination(db, "letters", max_per_second=10.0, max_concurrent=100)
    await stage(db, *(staged("letters") for _ in range(50)))
    one, other = await open_session(db), await open_session(db)
    starts = sorted(delivery.starts_in_s for delivery in await take(db, one))
    assert starts == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-6)
    assert all(delivery.starts_in_s > 0.3 for delivery in await take(db, other))


async def _fail_all(db: Database, session_id: uuid.UUID) -> int:
    """Take all that is due, and let every call of it fail."""
    taken = await take(db, session_id)
    outcomes = [came_of(delivery, PENDING, vote=BreakerVote.ABSTAINS) for delivery in taken]
    await settle(db, session_id, outcomes, judge)
    return len(taken)


async def test_what_failed_is_sent_again_no_faster_than_its_budget_over_all_dispatchers(
    db: Database,
) -> None:
    await make_destination(db, "letters", max_concurrent=200, max_retries_per_second=5.0)
    await stage(db, *(staged("letters") for _ in range(40)))
    one, other = await open_session(db), await open_session(db)
    assert await _fail_all(db, one) == 40
    assert [await _fail_all(db, session) for session in (one, other)] == [5, 0]
    fresh = [staged("letters") for _ in range(3)]
    await stage(db, *fresh)
    deliveries = await take(db, other)  # what is new does not wait behind what failed
    new = {delivery.effect_id for delivery in deliveries if not delivery.spent}
    assert new == {effect.effect_id for effect in fresh}
    await check_places(db)
    async with db.connection() as connection:
        places = "SELECT d.due_time = e.next_attempt_time FROM effect_due d JOIN effect e USING (effect_id)"
        assert all(row[0] for row in await connection.fetch(places))
        since = await connection.fetchval("SELECT clock_timestamp()")
        again = 0
        while (now := await connection.fetchval("SELECT clock_timestamp()")) < since + timedelta(seconds=1.5):
            again += await _fail_all(db, one) + await _fail_all(db, other)
        elapsed = (now - since).total_seconds()
    assert 3 <= again <= 5 * (elapsed + 1) + 1


async def test_of_an_open_breaker_all_dispatchers_together_get_one_probe(db: Database) -> None:
    assert await _probes(db) == [True]


async def test_without_the_limit_of_the_half_open_breaker_each_dispatcher_would_probe(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlimited(breaker: Breaker, load: Load, **more: Any) -> Permission:
        return permit(breaker, replace(load, probing=False), **more)

    monkeypatch.setattr(outbox_claim, "permit", unlimited)
    assert len(await _probes(db)) > 1


async def _probes(db: Database) -> list[bool]:
    """Let many dispatchers look at once, again and again, at an open breaker whose time has come."""
    await make_destination(db, "letters", max_concurrent=100)
    await stage(db, *(staged("letters") for _ in range(50)))
    async with db.connection() as connection:
        await connection.execute(
            "UPDATE destination_state SET breaker = 2, failures = 5, open_time = now(), probe_time = now()"
        )
    sessions = [await open_session(db) for _ in range(6)]
    found: list[bool] = []
    for _ in range(5):
        for deliveries in await asyncio.gather(*(take(db, session) for session in sessions)):
            found += [delivery.probe for delivery in deliveries]
    return found


async def test_what_is_wanted_is_shared_by_the_destinations(db: Database) -> None:
    for name in ("busy", "quiet", "quieter"):
        await make_destination(db, name, max_concurrent=100)
    await stage(db, *(staged("busy") for _ in range(50)), staged("quiet"), staged("quieter"))
    deliveries = await take(db, await open_session(db), wanted=6)
    assert {delivery.destination.name for delivery in deliveries} == {"busy", "quiet", "quieter"}


async def test_destinations_beyond_one_walk_get_their_turn(db: Database) -> None:
    names = [f"d{n:03}" for n in range(600)]
    for name in names:
        await make_destination(db, name)
    await stage(db, *(staged(name) for name in names))
    session_id = await open_session(db)
    seen: set[str] = set()
    after = 0
    for _ in range(12):
        claimed = await claim(db, session_id, wanted=1000, after_destination=after)
        after = claimed.last_destination
        seen |= {delivery.destination.name for delivery in claimed.deliveries}
    assert seen == set(names)


async def test_nothing_is_lost_when_dispatchers_die_and_destinations_fail_at_random(db: Database) -> None:
    """Invariant 5 in the ledger: every effect ends, in its order, whatever happens to who sends it."""
    dice = random.Random(7)
    for name in ("a", "b"):
        await make_destination(db, name, max_concurrent=50, breaker_policy=_never())
    effects = [staged(dice.choice("ab"), ordering_key=dice.choice(("", "x", "y", "z"))) for _ in range(120)]
    await stage(db, *effects)
    finished: list[uuid.UUID] = []
    sessions = [await open_session(db) for _ in range(3)]
    async with asyncio.timeout(60):
        while len(finished) < len(effects):
            at = dice.randrange(len(sessions))
            deliveries = await take(db, sessions[at], 9)
            if dice.random() < 0.15:
                await expire(db, sessions[at])
                while await sweep(db):
                    pass
                zombies = await settle(db, sessions[at], [came_of(d) for d in deliveries], judge)
                assert zombies == set()
                sessions[at] = await open_session(db)
                continue
            outcomes = []
            for delivery in deliveries:
                answer = dice.choice((Answer.ACCEPTED, Answer.ACCEPTED, Answer.UNCERTAIN, Answer.NOT_SENT))
                verdict = decide(
                    answer,
                    attempts=delivery.attempts,
                    spent=delivery.spent,
                    mode=delivery.destination.mode,
                    policy=delivery.destination.retry,
                    random=lambda: 0.0,
                )
                outcomes.append(came_of(delivery, verdict.status, vote=BreakerVote.ABSTAINS))
            ended = await settle(db, sessions[at], outcomes, judge)
            assert ended == {delivery.effect_id for delivery in deliveries}
            finished += [o.effect_id for o in outcomes if o.verdict.status is not PENDING]
    await check_places(db)
    assert sorted(finished) == sorted(effect.effect_id for effect in effects)
    for name in "ab":
        for key in "xyz":
            lane = [e.effect_id for e in effects if (e.destination, e.ordering_key) == (name, key)]
            assert [effect_id for effect_id in finished if effect_id in set(lane)] == lane


def _never() -> BreakerPolicy:
    return BreakerPolicy(failures=1_000_000)


async def test_what_one_statement_settles_is_what_a_transaction_would_write(db: Database) -> None:
    await make_destination(db, "letters")
    await stage(db, *(staged("letters") for _ in range(6)))
    session_id = await open_session(db)
    plain, whole = (deliveries := await take(db, session_id))[:3], deliveries[3:]
    assert await settle(db, session_id, [came_of(each) for each in plain], judge)
    async with db.transaction() as connection:
        assert await outbox_settle.settle_in(connection, session_id, [came_of(each) for each in whole], judge)
    seen = [
        [(view.status, view.attempts, len(view.history), view.last_failure, view.deliver_time is not None)]
        for view in [await view_of(db, each.effect_id) for each in deliveries]
    ]
    assert seen[:3] == seen[3:] == [[(DELIVERED, 1, 1, None, True)]] * 3
    await check_places(db)


async def test_a_breaker_that_has_counted_failures_hears_of_what_one_statement_settles(db: Database) -> None:
    await make_destination(db, "letters")
    await make_destination(db, "calm")
    await stage(db, *(staged(name) for name in ("letters", "letters", "calm", "letters")))
    session_id = await open_session(db)
    first, second, *others = sorted(
        await take(db, session_id), key=lambda each: each.destination.name != "letters"
    )
    await settle(db, session_id, [came_of(first, PENDING, delay_s=60, vote=BreakerVote.FAILS)], judge)
    counted = (
        "SELECT failures FROM destination_state s JOIN destination d USING (destination_id) WHERE name = $1"
    )
    async with db.connection() as connection:
        assert await connection.fetchval(counted, "letters") == 1
    silent = came_of(second, vote=BreakerVote.ABSTAINS)
    assert await settle(db, session_id, [silent], judge) == {second.effect_id}
    async with db.connection() as connection:
        assert await connection.fetchval(counted, "letters") == 1
    assert len(await settle(db, session_id, [came_of(each) for each in others], judge)) == 2
    async with db.connection() as connection:
        assert await connection.fetchval(counted, "letters") == 0
    await check_places(db)
