"""What the Worker shape is judged by: a light tenant beside a noisy one, effects, events, cost at rest."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from bench.ours.sink import sink
from bench.protocol import Question, answer
from holdfast.client import Client, Destination
from holdfast.dev import Suite

AGENTS = "bench.ours.agents:app"
SETTLING = 10.0
MINUTE = 60.0
PATIENCE = 300.0
NOISE: Final = 20_000
EFFECTS: Final = 50_000
AT_ONCE: Final = 1000
WARM_UP: Final = 2000
EVENTS: Final = 20_000
BATCH: Final = 500

_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
_STAGE = """
SELECT count(holdfast_outbox.stage(destination => 'sink', payload => jsonb_build_object('n', n),
                                   idempotency_key => 'bench/' || n))
FROM generate_series($1::int, $2::int) AS n
"""
_LEFT = "SELECT EXISTS (SELECT FROM effect_due) OR EXISTS (SELECT FROM effect_lease)"
_ENQUEUE = "SELECT holdfast.enqueue_run(intent => 'stamped', payload => '{}', idempotency_key => $1)"


@asynccontextmanager
async def standing(**more: Any) -> AsyncIterator[tuple[Suite, Client, Any]]:
    """Bring up the suite, a client of it, and a connection to what it stands on."""
    async with Suite(agents=[AGENTS], ephemeral=True, supervise=False, **more) as suite:
        connection = await asyncpg.connect(suite.database_url, server_settings={"search_path": "holdfast"})
        try:
            dispatcher = suite.addresses["dispatcher"]
            async with Client(suite.invoker_addresses[0], dispatcher=dispatcher) as client:
                yield suite, client, connection
        finally:
            await connection.close()


async def idle(_question: Question) -> None:
    """Answer with the transactions a minute that PostgreSQL sees of each process while nothing happens."""
    async with standing() as (suite, _, connection):
        await asyncio.sleep(SETTLING)
        before = await connection.fetchval(_TRANSACTIONS)
        await asyncio.sleep(MINUTE)
        queries = await connection.fetchval(_TRANSACTIONS) - before
        processes = len(suite.processes)
        answer(
            queries_per_minute_per_process=round(queries / processes, 1),
            queries_per_minute=queries,
            processes=processes,
        )


async def light(question: Question) -> None:
    """Answer with how long single runs of one tenant wait while another has thousands queued."""
    async with standing() as (suite, noisy, _):
        warm = await noisy.invoke("w2", {"number": 1})
        await warm.result(patience=PATIENCE)
        noise = asyncio.create_task(_noise(noisy))
        taken, waiting = [], []
        async with Client(suite.invoker_addresses[0], tenant="light") as client:
            for _ in range(question.runs):
                waiting.append(await _queued(noisy, noise))
                run = await client.get_run((await client.invoke("w2", {"number": 1})).run_id)
                while run.start_time is None:
                    await asyncio.sleep(0.002)
                    run = await client.get_run(run.run_id)
                assert run.create_time is not None
                taken.append(round(1000 * (run.start_time - run.create_time).total_seconds(), 3))
            waiting.append(await _waiting(noisy))
        noise.cancel()
        await asyncio.gather(noise, return_exceptions=True)
        if not waiting[-1]:
            raise RuntimeError("the noise was over before what it is to disturb")
        answer(latencies_ms=taken, noisy_queued_least=min(waiting), noisy_queued_last=waiting[-1])


async def _noise(client: Client) -> None:
    """Publish the noisy tenant's runs until cancelled, as fast as they are taken in; up to `NOISE` wait."""
    for at in itertools.count():
        keys = [f"noise/{at}/{n}" for n in range(BATCH)]
        group = [{"intent": "w2", "payload": {"number": 1}, "idempotency_key": key} for key in keys]
        refused = [one.refusal for one in await client.publish(group) if one.refusal is not None]
        if refused:
            raise RuntimeError(f"noise was refused: {refused[0]}")
        while await _waiting(client) >= NOISE:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _queued(client: Client, noise: asyncio.Task[None]) -> int:
    """Wait until thousands of the noisy tenant's runs wait, and return how many; the noise goes on."""
    async with asyncio.timeout(PATIENCE):
        while (queued := await _waiting(client)) < NOISE // 10:
            if noise.done():
                await noise
            await asyncio.sleep(0.05)
    return queued


async def _unfinished(client: Client) -> int:
    queue = (await client.tenants.statistics("default")).queue
    return queue.queued + queue.in_flight


async def _waiting(client: Client) -> int:
    return (await client.tenants.statistics("default")).queue.queued


async def effects(_question: Question) -> None:
    """Answer with the effects a second that one dispatcher delivers to an endpoint that answers at once."""
    environment = {"HOLDFAST_ALLOW_PRIVATE_ADDRESSES": "1", "HOLDFAST_DELIVERIES_AT_ONCE": str(AT_ONCE)}
    async with standing(environments={"dispatcher": environment}) as (_, client, connection), sink() as url:
        await client.outbox.put_destination(Destination("sink", url, max_concurrent=AT_ONCE))
        await connection.fetchval(_STAGE, 1, WARM_UP)
        await _delivered(connection, WARM_UP)
        await connection.fetchval(_STAGE, WARM_UP + 1, WARM_UP + EFFECTS, timeout=PATIENCE)
        began = time.perf_counter()
        await _delivered(connection, WARM_UP + EFFECTS)
        seconds = time.perf_counter() - began
        answer(effects_per_s=round(EFFECTS / seconds, 1), seconds=round(seconds, 3))


async def _delivered(connection: Any, count: int) -> None:
    """Wait until so many effects are known to be delivered; asking costs next to nothing beside them."""
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(_LEFT):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    delivered = await connection.fetchval("SELECT count(*) FROM effect WHERE status = 3")
    if delivered != count:
        raise RuntimeError(f"{delivered} effects of {count} were delivered")


async def event_to_start(question: Question) -> None:
    """Answer with the milliseconds from the call that stages an event until its run's step begins."""
    async with standing() as (_, client, connection):
        await (await client.invoke("stamped")).result(patience=PATIENCE)
        taken = []
        for number in range(question.runs):
            sent = time.perf_counter()
            await connection.fetchval(_ENQUEUE, f"event/{number}")
            result = await _result(connection, f"event/{number}")
            taken.append(round(1000 * (float(result) - sent), 3))
        answer(latencies_ms=taken)


async def _result(connection: Any, key: str) -> Any:
    """Wait for the result of an event's run."""
    query = """SELECT o.result FROM idempotency i JOIN run_outcome o USING (run_id)
               WHERE i.tenant = 'default' AND i.idempotency_key = $1"""
    async with asyncio.timeout(PATIENCE):
        while (found := await connection.fetchval(query, key)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return json.loads(found)


async def events(_question: Question) -> None:
    """Answer with the events a second that are taken in, each a durable run when it is acknowledged."""
    async with standing() as (_, client, _connection):
        await (await client.invoke("w2", {"number": 1})).result(patience=PATIENCE)
        groups = [
            [{"intent": "w2", "payload": {"number": n}, "idempotency_key": f"{at}/{n}"} for n in range(BATCH)]
            for at in range(EVENTS // BATCH)
        ]
        left = iter(groups)

        async def publisher() -> None:
            for group in left:
                refused = [one.refusal for one in await client.publish(group) if one.refusal is not None]
                if refused:
                    raise RuntimeError(f"an event was refused: {refused[0]}")

        began = time.perf_counter()
        await asyncio.gather(*(publisher() for _ in range(4)))
        taken_in = time.perf_counter() - began
        while await _unfinished(client):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        ended = time.perf_counter() - began
        answer(events_per_s=round(EVENTS / taken_in, 1), ended_per_s=round(EVENTS / ended, 1))
