"""Real dispatcher processes, killed, stopped and resumed at the worst moments."""

import asyncio
import signal
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from examples.standins.fault import Fault
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger.domain.delivery import DeliveryMode, EffectStatus
from holdfast.v1 import outbox_service_pb2 as pb
from holdfast.v1.outbox_service_pb2_grpc import OutboxServiceStub
from tests.support.dispatching import all_ended, dispatcher_process, to_receiver, until
from tests.support.outbox import check_places, open_database, stage, staged, view_of

SHORT = {"lease_ttl": "1", "heartbeat_interval": "0.3", "poll_interval": "0.2"}


async def test_a_dispatcher_killed_after_sending_has_its_effects_sent_again_under_the_same_keys(
    db: Database, receiver: WebhookReceiver
) -> None:
    await to_receiver(db, receiver)
    effects = [staged("tickets", ordering_key="a") for _ in range(3)] + [staged("tickets") for _ in range(5)]
    await stage(db, *effects)
    async with dispatcher_process(db.url, crash_at="dispatcher.after_send:3", **SHORT) as first:
        assert await first.ended() == -signal.SIGKILL
    async with dispatcher_process(db.url, **SHORT):
        await all_ended(db, 8)
    statistics = receiver.statistics()
    assert statistics["applied"] == statistics["idempotency_keys"] == 8
    assert statistics["deliveries"] > 8
    keys = [d.idempotency_key for d in receiver.deliveries if d.applied]
    lane = [str(effect.effect_id) for effect in effects[:3]]
    assert [key for key in keys if key in set(lane)] == lane
    await check_places(db)


async def test_a_dispatcher_killed_before_sending_loses_nothing(
    db: Database, receiver: WebhookReceiver
) -> None:
    await to_receiver(db, receiver)
    await stage(db, *(staged("tickets") for _ in range(5)))
    async with dispatcher_process(db.url, crash_at="dispatcher.before_send", **SHORT) as first:
        assert await first.ended() == -signal.SIGKILL
    async with dispatcher_process(db.url, **SHORT):
        await all_ended(db, 5)
    assert receiver.statistics() == {"deliveries": 5, "applied": 5, "idempotency_keys": 5}


async def test_a_call_that_may_be_made_once_only_is_set_aside_when_its_dispatcher_is_killed(
    db: Database, receiver: WebhookReceiver
) -> None:
    await to_receiver(db, receiver, mode=DeliveryMode.AT_MOST_ONCE)
    effect = staged("tickets")
    await stage(db, effect)
    async with dispatcher_process(db.url, crash_at="dispatcher.after_send", **SHORT) as first:
        await first.ended()
    async with dispatcher_process(db.url, **SHORT):
        await all_ended(db, 1, EffectStatus.DEAD_LETTERED)
    view = await view_of(db, effect.effect_id)
    assert view.last_failure is not None
    assert view.last_failure.reason == "DISPATCHER_LOST"
    assert receiver.statistics()["deliveries"] == 1


async def test_a_destination_is_asked_after_a_dispatcher_was_killed_and_gets_nothing_twice(
    db: Database, receiver: WebhookReceiver
) -> None:
    url = f"{receiver.url}/applied/{{key}}"
    await to_receiver(db, receiver, mode=DeliveryMode.CONFIRM, status_url=url, max_concurrent=1)
    sent, unsent = staged("tickets", ordering_key="a"), staged("tickets", ordering_key="a")
    await stage(db, sent, unsent)
    async with dispatcher_process(db.url, crash_at="dispatcher.after_send", **SHORT) as first:
        await first.ended()
    async with dispatcher_process(db.url, crash_at="dispatcher.before_send", **SHORT) as second:
        await second.ended()  # leased and not sent: who comes next cannot know, and asks
    async with dispatcher_process(db.url, **SHORT):
        await all_ended(db, 2)
    assert [delivery.idempotency_key for delivery in receiver.deliveries] == [
        str(sent.effect_id),
        str(unsent.effect_id),
    ]
    assert 200 in receiver.inquiries


async def test_a_dispatcher_that_wakes_after_its_lease_ran_out_changes_nothing(
    db: Database, receiver: WebhookReceiver
) -> None:
    await to_receiver(db, receiver)
    receiver.faults.add(Fault("hang_after"))
    effects = [staged("tickets", ordering_key="a") for _ in range(4)]
    await stage(db, *effects)

    async with dispatcher_process(db.url, **SHORT) as zombie:
        await until(partial(_has_calls, receiver, 1))
        zombie.send(signal.SIGSTOP)
        async with dispatcher_process(db.url, **SHORT):
            await all_ended(db, 4)
            # Its hanging call is cut, so it wakes with an outcome in its hands, for a lease it lost.
            receiver.connections.cut_all()
            zombie.send(signal.SIGCONT)
            more = [staged("tickets", ordering_key="a") for _ in range(4)]
            await stage(db, *more)
            await all_ended(db, 8)
        zombie.send(signal.SIGTERM)
        assert await zombie.ended() == 0
    view = await view_of(db, effects[0].effect_id)
    reasons = [attempt.failure.reason if attempt.failure else "" for attempt in view.history]
    assert reasons == ["DISPATCHER_LOST", ""]
    applied = [d.idempotency_key for d in receiver.deliveries if d.applied]
    assert applied == [str(effect.effect_id) for effect in (*effects, *more)]
    await check_places(db)


async def test_postgresql_killed_while_effects_are_sent_loses_none_and_needs_no_restart(
    mortal_postgres: EmbeddedPostgres, receiver: WebhookReceiver
) -> None:
    url = mortal_postgres.url()
    effects = [staged("tickets", ordering_key=str(n % 5) if n % 2 else "") for n in range(120)]
    async with open_database(url) as db:
        await to_receiver(db, receiver, max_concurrent=4)
        await stage(db, *effects)

    async with dispatcher_process(url, **SHORT):
        for calls in (10, 50):
            await until(partial(_has_calls, receiver, calls))
            await mortal_postgres.kill()
            await mortal_postgres.ready()
        async with open_database(url) as db:
            await all_ended(db, len(effects))
            await check_places(db)
    keys = [d.idempotency_key for d in receiver.deliveries if d.applied]
    assert sorted(keys, key=str) == sorted(str(effect.effect_id) for effect in effects)
    for lane in "13579":
        expected = [str(effect.effect_id) for effect in effects if effect.ordering_key == lane]
        assert [key for key in keys if key in set(expected)] == expected


async def test_sigterm_ends_calls_under_way_hands_back_the_rest_and_exits_cleanly(
    db: Database, receiver: WebhookReceiver
) -> None:
    await to_receiver(db, receiver, max_per_second=3.0)
    await stage(db, *(staged("tickets") for _ in range(4)))
    async with dispatcher_process(db.url) as process:
        await all_ended(db, 1)
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM effect_lease") == 0
        assert await connection.fetchval("SELECT coalesce(max(attempts), 0) FROM effect_due") == 0
    await check_places(db)


async def test_the_process_serves_the_outbox_health_and_refuses_a_busy_port(db: Database) -> None:
    async with dispatcher_process(db.url) as process:
        async with grpc.aio.insecure_channel(process.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service="holdfast.v1.OutboxService"), timeout=10
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            outbox = OutboxServiceStub(channel)  # type: ignore[no-untyped-call, unused-ignore]
            assert not (await outbox.ListEffects(pb.ListEffectsRequest(), timeout=10)).effects
        refused = asyncio.create_task(_start_at(db.url, process.address))
        assert "in use" in await refused


async def _has_calls(receiver: WebhookReceiver, calls: int) -> bool:
    return len(receiver.deliveries) >= calls


async def _start_at(database_url: str, address: str) -> str:
    try:
        async with dispatcher_process(database_url, listen=address):
            return "it started"
    except AssertionError as error:
        return str(error)
