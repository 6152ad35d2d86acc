"""Invariant 5: a committed effect arrives under one key and in its order, or is visibly set aside."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from examples.standins.fault import Fault
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.dispatcher import dispatch as dispatch_module
from holdfast.kit.db import Database
from holdfast.kit.errors import LedgerUnavailable
from holdfast.ledger import outbox_person
from holdfast.ledger.domain.breaker import BreakerPolicy, BreakerState
from holdfast.ledger.domain.delivery import DeliveryMode, EffectStatus, RetryPolicy
from holdfast.ledger.outbox_claim import Claimed, claim
from tests.support.dispatching import QUICK, Dispatchers, all_ended, to_receiver, until
from tests.support.outbox import check_places, make_destination, stage, staged, view_of

DEAD = EffectStatus.DEAD_LETTERED


async def test_an_effect_arrives_signed_with_its_key_and_its_body_byte_for_byte(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(
        db, receiver, headers={"X-Team": "support", "Content-Type": "application/cloudevents+json"}
    )
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    effect = staged("tickets", key="ticket/7 ü%", body='{"text":"grüß"}'.encode(), traceparent=trace)
    await stage(db, effect)
    await dispatchers.start()
    await all_ended(db, 1)
    [delivery] = receiver.deliveries
    assert delivery.verified is True
    assert delivery.body == {"text": "grüß"}
    assert delivery.idempotency_key == delivery.headers["webhook-id"] == "ticket/7%20%C3%BC%25"
    assert delivery.headers["traceparent"] == trace
    assert delivery.headers["x-team"] == "support"
    assert delivery.headers["content-type"] == "application/cloudevents+json"


async def test_without_a_secret_nothing_is_signed(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver, secret_name="")
    receiver._webhook = None
    await stage(db, staged("tickets"))
    await dispatchers.start()
    await all_ended(db, 1)
    assert not [name for name in receiver.deliveries[0].headers if name.startswith("webhook-")]


async def test_a_failing_destination_is_tried_again_until_it_takes_the_effect(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver)
    for kind in ("500", "503", "429", "reset"):
        receiver.faults.add(Fault(kind))
    effect = staged("tickets")
    await stage(db, effect)
    await dispatchers.start()
    await all_ended(db, 1)
    view = await view_of(db, effect.effect_id)
    assert view.attempts == 5
    assert [attempt.http_status for attempt in view.history] == [500, 503, 429, 0, 200]
    reasons = [attempt.failure.reason if attempt.failure else "" for attempt in view.history]
    assert reasons == ["HTTP_500", "HTTP_503", "HTTP_429", "CONNECTION_LOST", ""]
    assert {delivery.idempotency_key for delivery in receiver.deliveries} == {str(effect.effect_id)}


async def test_an_answer_that_never_will_be_yes_sets_the_effect_aside_at_once(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver)
    receiver.faults.add(Fault("422"))
    receiver.faults.add(Fault("302"))
    first, second, third = (staged("tickets", ordering_key="a") for _ in range(3))
    await stage(db, first, second, third)
    await dispatchers.start()
    await all_ended(db, 1)
    assert [(await view_of(db, effect.effect_id)).status for effect in (first, second)] == [DEAD, DEAD]
    assert len(receiver.deliveries) == 3


async def test_an_effect_is_set_aside_after_its_last_attempt_with_its_history_and_can_be_sent_again(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver, retry=RetryPolicy(3, 0.01, 0.02))
    receiver.faults.add(Fault("500", count=3))
    effect = staged("tickets", ordering_key="a")
    await stage(db, effect)
    dispatch = await dispatchers.start()
    await all_ended(db, 1, DEAD)
    view = await view_of(db, effect.effect_id)
    assert (view.attempts, len(view.history)) == (3, 3)
    assert view.last_failure is not None
    assert view.last_failure.attempts == 3
    again = await outbox_person.retry(db, "default", effect.effect_id)
    assert again.status in (EffectStatus.PENDING, EffectStatus.SENDING)
    dispatch.wake()
    await all_ended(db, 1)
    assert (await view_of(db, effect.effect_id)).attempts == 4
    assert receiver.statistics() == {"deliveries": 4, "applied": 1, "idempotency_keys": 1}


async def test_a_destination_that_says_when_to_come_again_is_not_called_before(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver)
    receiver.faults.add(Fault("429", retry_after=1))
    await stage(db, staged("tickets"))
    await dispatchers.start()
    await all_ended(db, 1)
    early, late = (datetime.fromisoformat(delivery.received_at) for delivery in receiver.deliveries)
    assert late - early >= timedelta(seconds=0.99)


async def test_each_key_keeps_its_order_whatever_fails_and_however_many_dispatch(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver, retry=RetryPolicy(50, 0.001, 0.005), breaker_policy=_never())
    dice = random.Random(3)
    for _ in range(40):
        receiver.faults.add(Fault(dice.choice(("500", "reset", "reset_after", "429", "503"))))
    keys = ["", "a", "b", "c", "d"]
    effects = [staged("tickets", ordering_key=dice.choice(keys), body=str(n).encode()) for n in range(80)]
    await stage(db, *effects[:40])
    for _ in range(3):
        await dispatchers.start()
    for effect in effects[40:]:
        await stage(db, effect)
    await all_ended(db, len(effects))
    applied = [json.loads(json.dumps(d.body)) for d in receiver.deliveries if d.applied]
    assert sorted(applied) == list(range(80))
    for key in keys[1:]:
        expected = [n for n, effect in enumerate(effects) if effect.ordering_key == key]
        assert [n for n in applied if n in set(expected)] == expected
    await check_places(db)


async def test_a_call_whose_outcome_is_unknown_is_made_again_under_the_same_key(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver, timeout_s=0.3)
    receiver.faults.add(Fault("reset_after"))
    receiver.faults.add(Fault("hang_after"))
    await stage(db, staged("tickets"))
    await dispatchers.start()
    await all_ended(db, 1)
    assert receiver.statistics() == {"deliveries": 3, "applied": 1, "idempotency_keys": 1}


async def test_a_call_that_may_be_made_once_only_is_not_repeated_when_its_outcome_is_unknown(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver, mode=DeliveryMode.AT_MOST_ONCE, timeout_s=0.3)
    receiver.faults.add(Fault("429"))
    receiver.faults.add(Fault("hang_after"))
    effect = staged("tickets")
    await stage(db, effect)
    await dispatchers.start()
    await all_ended(db, 1, DEAD)
    assert receiver.statistics()["deliveries"] == 2
    view = await view_of(db, effect.effect_id)
    assert view.last_failure is not None
    assert view.last_failure.reason == "TIMEOUT"


async def test_a_destination_that_can_be_asked_is_asked_before_an_uncertain_call_is_repeated(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(
        db,
        receiver,
        mode=DeliveryMode.CONFIRM,
        status_url=f"{receiver.url}/applied/{{key}}",
        timeout_s=0.3,
        max_concurrent=1,
    )
    receiver.faults.add(Fault("reset_after"))
    taken = staged("tickets", key="ticket/7 ü")
    await stage(db, taken)
    receiver._applied.add("ticket/7 ü")  # as a receiver that reads the percent signs of the header
    receiver.inquiry_faults = [503, 403]  # it does not say: then it is neither sent nor given up
    await dispatchers.start()
    await all_ended(db, 1)
    assert (len(receiver.deliveries), receiver.inquiries) == (1, [503, 403, 200])
    view = await view_of(db, taken.effect_id)
    reasons = [attempt.failure.reason if attempt.failure else "" for attempt in view.history]
    assert reasons == ["CONNECTION_LOST", "UNCONFIRMED", "UNCONFIRMED", ""]
    receiver.faults.add(Fault("500"))  # uncertain, but not taken: asked, and sent again
    receiver.faults.add(Fault("503"))  # certainly not taken: not asked again
    await stage(db, staged("tickets"))
    await all_ended(db, 2)
    assert (len(receiver.deliveries), receiver.inquiries) == (4, [503, 403, 200, 404])


async def test_a_destination_that_never_says_keeps_the_effect_from_being_sent_twice(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    status_url = f"{receiver.url}/applied/{{key}}"
    retry = RetryPolicy(4, 0.01, 0.02)
    await to_receiver(db, receiver, mode=DeliveryMode.CONFIRM, status_url=status_url, retry=retry)
    receiver.faults.add(Fault("reset_after"))
    receiver.inquiry_faults = [302, 401, 400]
    effect = staged("tickets")
    await stage(db, effect)
    await dispatchers.start()
    await all_ended(db, 1, DEAD)
    await outbox_person.retry(db, "default", effect.effect_id)  # it is asked again first
    await all_ended(db, 1)
    assert (len(receiver.deliveries), receiver.inquiries) == (1, [302, 401, 400, 200])


async def test_an_open_breaker_keeps_effects_waiting_without_spending_their_attempts(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    policy = BreakerPolicy(failures=3, reset_after=timedelta(seconds=0.3))
    await to_receiver(db, receiver, max_concurrent=1, breaker_policy=policy, retry=RetryPolicy(3, 0.01, 0.02))
    receiver.faults.add(Fault("503", count=8))
    effects = [staged("tickets") for _ in range(10)]
    await stage(db, *effects)
    for _ in range(2):
        await dispatchers.start()
    await all_ended(db, 10)
    # Three failures opened it; then one probe every 0.3 s failed, five times, and the sixth went through.
    times = [datetime.fromisoformat(delivery.received_at) for delivery in receiver.deliveries]
    gaps = [(late - early).total_seconds() for early, late in pairwise(times[2:9])]
    assert all(gap >= 0.29 for gap in gaps)
    assert receiver.statistics() == {"deliveries": 18, "applied": 10, "idempotency_keys": 10}
    assert [d.status for d in receiver.deliveries] == [503] * 8 + [200] * 10
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT breaker FROM destination_state") == BreakerState.CLOSED


async def test_an_open_breaker_of_one_destination_does_not_hold_up_another(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await make_destination(db, "down", breaker_policy=BreakerPolicy(1, timedelta(hours=1)))
    await to_receiver(db, receiver)
    await stage(db, *(staged("down") for _ in range(300)))
    await dispatchers.start()

    async def is_open() -> bool:
        async with db.connection() as connection:
            return bool(await connection.fetchval("SELECT bool_or(breaker = 2) FROM destination_state"))

    await until(is_open)
    await stage(db, *(staged("tickets") for _ in range(5)))
    await all_ended(db, 5)
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT max(attempts) FROM effect_due") <= 1
        assert await connection.fetchval("SELECT count(*) FROM effect WHERE status = 4") == 0


async def test_a_secret_that_is_missing_parks_effects_instead_of_losing_them(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    policy = BreakerPolicy(1, timedelta(seconds=0.1))
    effect = staged("tickets")
    for name in ("nowhere", "broken"):
        await to_receiver(db, receiver, secret_name=name, breaker_policy=policy)
        await stage(db, effect)
    await dispatchers.start()

    async def has_failed() -> bool:
        return (await view_of(db, effect.effect_id)).attempts >= 2

    await until(has_failed)
    view = await view_of(db, effect.effect_id)
    assert view.last_failure is not None
    assert view.last_failure.reason == "SECRET_MISSING"
    assert "whsec" not in view.last_failure.message.replace("(whsec_…)", "")
    assert receiver.deliveries == []
    await to_receiver(db, receiver, breaker_policy=policy)
    await all_ended(db, 1)


async def test_a_hint_of_the_ledger_is_enough_and_so_is_polling_without_hints(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver)
    dispatch = await dispatchers.start(poll_interval=3600.0, heartbeat_interval=3600.0, lease_ttl=7200.0)
    await dispatch.claiming.signal.completed(2)
    await stage(db, staged("tickets"))
    async with db.connection() as connection:
        await connection.execute("SELECT pg_notify('holdfast_effect', '')")
    await all_ended(db, 1)
    await dispatchers.start(poll_interval=0.1)
    await stage(db, staged("tickets"))
    await all_ended(db, 2)


async def test_a_draining_dispatcher_ends_its_calls_and_hands_back_the_rest(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver, max_per_second=4.0)
    effects = [staged("tickets") for _ in range(3)]
    await stage(db, *effects)
    dispatch = await dispatchers.start()
    await all_ended(db, 1)
    async with asyncio.timeout(5):
        await dispatch.drain(5.0)
    sent = len(receiver.deliveries)
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM effect_lease") == 0
        assert await connection.fetchval("SELECT count(*) FROM effect_due") == 3 - sent
        assert await connection.fetchval("SELECT coalesce(max(attempts), 0) FROM effect_due") == 0
    await dispatchers.start()
    await all_ended(db, 3)


async def test_what_was_claimed_and_not_started_yet_is_handed_back_too(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver, max_concurrent=200)
    await stage(db, *(staged("tickets") for _ in range(200)))
    dispatch = await dispatchers.start(at_once=200)
    for _ in range(1_000_000):
        if dispatch._unstarted:
            break
        await asyncio.sleep(0)
    assert dispatch._unstarted
    async with asyncio.timeout(10):
        await dispatch.drain(5.0)
    sent = len(receiver.deliveries)
    assert sent < 200
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM effect_lease") == 0
        assert await connection.fetchval("SELECT count(*) FROM effect_due") == 200 - sent


@pytest.mark.parametrize("mode", [DeliveryMode.AT_LEAST_ONCE, DeliveryMode.AT_MOST_ONCE])
async def test_what_was_leased_by_a_claim_whose_answer_was_lost_is_sent(
    db: Database,
    receiver: WebhookReceiver,
    dispatchers: Dispatchers,
    monkeypatch: pytest.MonkeyPatch,
    mode: DeliveryMode,
) -> None:
    lost: list[int] = []

    async def unheard(*asked: Any, **more: Any) -> Claimed:
        claimed = await claim(*asked, **more)
        if claimed.deliveries and len(lost) < 2:
            lost.append(len(claimed.deliveries))
            raise LedgerUnavailable("The connection broke after COMMIT.")
        return claimed

    monkeypatch.setattr(dispatch_module, "claim", unheard)
    await to_receiver(db, receiver, mode=mode)
    await stage(db, *(staged("tickets", ordering_key=key) for key in ("", "", "a", "a", "a")))
    await dispatchers.start()
    await all_ended(db, 5)
    assert lost
    assert receiver.statistics() == {"deliveries": 5, "applied": 5, "idempotency_keys": 5}


async def test_a_call_cut_off_by_the_end_of_the_process_is_made_again(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver)
    receiver.faults.add(Fault("hang_after"))
    effect = staged("tickets")
    await stage(db, effect)
    dispatch = await dispatchers.start()

    async def is_called() -> bool:
        return bool(receiver.deliveries)

    await until(is_called)
    await dispatch.drain(0.1)
    view = await view_of(db, effect.effect_id)
    assert view.last_failure is not None
    assert (view.status, view.last_failure.reason) == (EffectStatus.PENDING, "CUT_OFF")
    await dispatchers.start()
    await all_ended(db, 1)
    assert receiver.statistics() == {"deliveries": 2, "applied": 1, "idempotency_keys": 1}


async def test_an_endless_or_silent_body_does_not_take_back_an_accepted_effect(
    db: Database, dispatchers: Dispatchers
) -> None:
    bodies: list[str] = []
    cut: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while bodies[-1] == "endless":
                writer.write(b"x" * 65536)
                await writer.drain()
            await reader.read()
        except ConnectionError:
            cut.append("by the dispatcher")
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await make_destination(db, "odd", url=f"http://127.0.0.1:{port}/", timeout_s=0.5)
    await dispatchers.start()
    for body in ("endless", "silent"):
        bodies.append(body)
        await stage(db, staged("odd"))
        await all_ended(db, len(bodies))
    server.close()
    assert cut
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT max(attempts) FROM effect") == 1


async def test_a_host_that_turns_out_private_at_the_connection_is_not_called(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    async def rebound(host: str, port: int) -> list[str]:
        assert (host, port) == ("tickets.example", int(receiver.url.rpartition(":")[2]))
        return ["169.254.169.254", "127.0.0.1"]

    url = receiver.url.replace("127.0.0.1", "tickets.example")
    effect = staged("tickets")
    await to_receiver(db, receiver, url=url, retry=QUICK, breaker_policy=BreakerPolicy(1))
    await stage(db, effect)
    await dispatchers.start(resolve=rebound)

    async def has_failed() -> bool:
        return (await view_of(db, effect.effect_id)).last_failure is not None

    await until(has_failed)
    view = await view_of(db, effect.effect_id)
    assert view.last_failure is not None
    assert view.last_failure.reason == "ADDRESS_REFUSED"
    assert receiver.deliveries == []


async def test_the_signature_is_of_the_time_of_the_call(
    db: Database, receiver: WebhookReceiver, dispatchers: Dispatchers
) -> None:
    await to_receiver(db, receiver)
    receiver.faults.add(Fault("429", retry_after=1))
    await stage(db, staged("tickets"))
    await dispatchers.start()
    await all_ended(db, 1)
    early, late = (int(delivery.headers["webhook-timestamp"]) for delivery in receiver.deliveries)
    assert early < late <= int(datetime.now(UTC).timestamp())


def _never() -> BreakerPolicy:
    return BreakerPolicy(failures=1_000_000)
