"""A destination dies with thousands of effects pending and comes back, while dispatchers die and freeze."""

import signal
from collections import defaultdict
from datetime import timedelta
from urllib.parse import urlsplit

from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.kit.db import Database
from holdfast.ledger.domain.breaker import BreakerPolicy, BreakerState
from holdfast.ledger.domain.delivery import RetryPolicy
from tests.support.dispatching import SECRET, dispatcher_process, to_receiver, until
from tests.support.outbox import check_places, stage, staged

SHORT = {"lease_ttl": "1", "heartbeat_interval": "0.3", "poll_interval": "0.2", "deliveries_at_once": "64"}
COUNT, LANES = 3000, 40


async def number(db: Database, sql: str) -> int:
    async with db.connection() as connection:
        return int(await connection.fetchval(sql))


async def test_a_destination_that_dies_and_comes_back_gets_all_in_order_and_is_not_hammered_meanwhile(
    db: Database,
) -> None:
    policy = BreakerPolicy(failures=5, reset_after=timedelta(seconds=0.3))
    effects = [
        staged("tickets", ordering_key=f"lane{n % LANES}" if n % 2 else "", body=b'{"n":%d}' % n)
        for n in range(COUNT)
    ]
    async with (
        dispatcher_process(db.url, **SHORT) as killed,
        dispatcher_process(db.url, **SHORT) as frozen,
        dispatcher_process(db.url, **SHORT),
    ):
        async with WebhookReceiver(secret=SECRET) as before:
            # Three attempts in all: were the outage to spend them, there would be dead letters.
            await to_receiver(
                db, before, max_concurrent=32, breaker_policy=policy, retry=RetryPolicy(3, 0.05, 0.1)
            )
            port = urlsplit(before.url).port
            assert port is not None
            await stage(db, *effects)
            await until(lambda: _reached(before, 300))
        killed.send(signal.SIGKILL)
        frozen.send(signal.SIGSTOP)

        async def is_open() -> bool:
            return await number(db, "SELECT breaker FROM destination_state") != BreakerState.CLOSED

        await until(is_open)
        since = await number(db, "SELECT count(*) FROM effect_attempt")

        async def has_probed() -> bool:
            return await number(db, "SELECT failures FROM destination_state") > 8

        await until(has_probed)
        spent = await number(db, "SELECT count(*) FROM effect_attempt") - since
        assert spent <= 64 + 20, "an open breaker lets through what was under way, and probes"
        frozen.send(signal.SIGCONT)  # its leases are others' by now
        async with WebhookReceiver(secret=SECRET, port=port) as after:

            async def all_there() -> bool:
                return await number(db, "SELECT count(*) FROM effect WHERE status = 3") == COUNT

            await until(all_there, deadline=120)
            received = before.deliveries + after.deliveries
    assert await number(db, "SELECT count(*) FROM effect WHERE status <> 3") == 0
    keys = {delivery.idempotency_key for delivery in received if delivery.status == 200}
    assert keys == {effect.idempotency_key for effect in effects}
    assert len(received) <= COUNT + 200  # what three dispatchers held when two were lost, and no storm
    first = defaultdict(list)
    for n in dict.fromkeys(delivery.body["n"] for delivery in received):
        if n % 2:
            first[n % LANES].append(n)
    assert all(lane == sorted(lane) for lane in first.values())
    await check_places(db)


async def _reached(receiver: WebhookReceiver, count: int) -> bool:
    return len(receiver.deliveries) >= count
