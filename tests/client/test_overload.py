"""Far more than can be done: the rest is told when to come again, nothing grows, what is taken is done."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import psutil
import pytest

from holdfast.client import Client, Retries
from holdfast.client.errors import QueueFull
from holdfast.dev import Suite

ROOM = 200
OFFERED = 3000
AT_ONCE = 300
PATIENCE = 120.0


@pytest.fixture
async def suite(database_url: str) -> AsyncIterator[Suite]:
    """Run a suite whose tenant lets few runs wait."""
    async with Suite(["tests.access.agents:app"], database_url=database_url, supervise=False) as suite:
        async with Client(suite.invoker_addresses[0]) as client:
            await client.tenants.set("default", max_queued=ROOM, max_in_flight=20)
        yield suite


async def connections(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        )
        return count
    finally:
        await connection.close()


def memory(suite: Suite) -> dict[str, int]:
    """Return the MiB of each service."""
    return {
        name: psutil.Process(process.pid).memory_info().rss >> 20 for name, process in suite.processes.items()
    }


@pytest.mark.timeout(300)
async def test_what_is_too_much_is_told_to_come_again_and_the_rest_is_done(suite: Suite) -> None:
    once = Retries(attempts=1)
    told: Counter[str] = Counter()
    taken: list[str] = []
    open_at_most = 0
    left = iter(range(OFFERED))

    async def caller(client: Client) -> None:
        for number in left:
            try:
                run = await client.invoke("add", {"number": number}, idempotency_key=f"one/{number}")
            except QueueFull as error:
                told["later" if error.retry_after else "never"] += 1
            else:
                taken.append(run.run_id)

    before = memory(suite)
    async with Client(suite.invoker_addresses[0], retries=once, timeout=PATIENCE) as client:
        async with asyncio.TaskGroup() as callers:
            for _ in range(AT_ONCE):
                callers.create_task(caller(client))
            open_at_most = await connections(suite.database_url)
        assert len(taken) + told["later"] == OFFERED
        assert told["later"] > 0
        assert "never" not in told
        assert len(set(taken)) == len(taken)
        for run_id in taken:
            await client.await_run(run_id, patience=PATIENCE)
    # Whoever comes again when told comes in: as many again, and all of them.
    left = iter(range(OFFERED, OFFERED + 3 * ROOM))
    taken.clear()
    patient = Retries(attempts=1000, patience=PATIENCE)
    async with Client(suite.invoker_addresses[0], retries=patient, timeout=PATIENCE) as client:
        async with asyncio.TaskGroup() as callers:
            for _ in range(AT_ONCE):
                callers.create_task(caller(client))
        assert len(taken) == 3 * ROOM
    assert open_at_most <= 60
    grown = {name: now - before[name] for name, now in memory(suite).items()}
    assert max(grown.values()) < 150, grown
