"""What runs cost that only wait, and how soon they go on: by their time, a signal, a decision."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from bench.measure import tree_cpu_seconds
from bench.protocol import Question, answer
from holdfast.client import Budget, Client, Person, RunStatus, Shape
from holdfast.dev import Suite
from holdfast.embedded import EmbeddedPostgres
from holdfast.ledger import migrate
from holdfast.v1.invoker_service_pb2 import InvokeRequest

AGENTS = "bench.ours.agents:app"
RESTING = 100_000
MINUTE = 60.0
WOKEN = 10_000
SETTLING = 10.0
PATIENCE = 300.0
STEPS = 1000
UNDERWRITER = Person("bench", groups=("underwriters",))

# As a park leaves them: no lease, no place in a queue, two timers far away.
_REST = """
WITH filled AS MATERIALIZED (
    SELECT gen_random_uuid() AS run_id, nextval('run_seq') AS seq FROM generate_series(1, $1::int)
), tenants AS (
    INSERT INTO tenant (tenant, max_in_flight, max_queued) VALUES ('default', 1000000, 10000000)
    ON CONFLICT (tenant) DO UPDATE SET max_in_flight = 1000000, max_queued = 10000000
), runs AS (
    INSERT INTO run (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key,
                     correlation_id, session_id, ordering_key, priority, envelope)
    SELECT run_id, seq, 'default', now(), 'woken', 3, '', run_id::text, '', '', '', 0, $2 FROM filled
), states AS (
    INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch, attempt,
                           max_attempts, last_sequence, create_time, deadline_time, max_steps, max_tools,
                           max_tokens, max_context, deadline_ms, agent_version, park_keys)
    SELECT run_id, 'default', seq, current_date, 'woken@1', 0, '', 3, 1, 0, 5, 1, now(),
           now() + interval '9 days', 1000, 1000, 1000000, 128000, 777600000, '1', '{input}' FROM filled
)
INSERT INTO timer (run_id, kind, due_time, tenant)
SELECT run_id, kind, now() + interval '8 days', CASE kind WHEN 3 THEN 'default' ELSE '' END
FROM filled CROSS JOIN unnest('{1,3}'::smallint[]) AS kind
"""
_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


@asynccontextmanager
async def filled(runs: int, runners: int, *, console: bool = False) -> AsyncIterator[tuple[Suite, Any]]:
    """Bring up the suite beside runs that rest, and a connection to what it stands on."""
    async with EmbeddedPostgres(ephemeral=True) as server:
        await server.create_database("holdfast")
        url = server.url("holdfast")
        await migrate(url)
        connection = await asyncpg.connect(url, server_settings={"search_path": "holdfast"})
        try:
            envelope = InvokeRequest(intent="woken").SerializeToString()
            await connection.execute(_REST, runs, envelope, timeout=PATIENCE)
            await connection.execute("VACUUM ANALYZE", timeout=PATIENCE)
            suite = Suite([AGENTS], runners=runners, database_url=url, supervise=False, console=console)
            async with suite:
                yield suite, connection
        finally:
            await connection.close()


async def parked(_question: Question) -> None:
    """Answer with the transactions a minute that 100,000 parked runs cost, and the CPU beside them."""
    async with filled(RESTING, runners=1) as (suite, connection):
        pids = {name: process.pid for name, process in suite.processes.items()}
        await asyncio.sleep(SETTLING)
        cpu, before = _cpu(pids), await connection.fetchval(_TRANSACTIONS)
        await asyncio.sleep(MINUTE)
        spent = {name: round(seconds - cpu[name], 3) for name, seconds in _cpu(pids).items()}
        queries = await connection.fetchval(_TRANSACTIONS) - before
        answer(
            queries_per_minute=queries,
            queries_per_minute_per_process=round(queries / len(pids), 1),
            cpu_seconds_by_process=spent,
        )


async def wake(_question: Question) -> None:
    """Answer with how many runs a second are woken that fall due at once, and come to their end."""
    async with filled(WOKEN, runners=1) as (_, connection):
        await asyncio.sleep(SETTLING)
        await connection.execute("UPDATE timer SET due_time = now() WHERE kind = 3")
        began = time.perf_counter()
        woken = await _none_left(connection, "status = 3") - began
        ended = await _none_left(connection, "status < 5") - began
        answer(
            wake_per_s=round(WOKEN / woken, 1),
            ended_per_s=round(WOKEN / ended, 1),
            seconds=round(ended, 3),
        )


async def resume(question: Question) -> None:
    """Answer with the milliseconds from a signal to the next step of a parked run of 1,000 steps."""
    async with standing() as client:
        taken = []
        for _ in range(question.runs):
            budget = Budget(max_steps=2 * STEPS)
            handle = await client.invoke("long", {"steps": STEPS}, budget=budget, shape=Shape.WORKFLOW)
            await _parked(client, handle.run_id)
            sent = time.perf_counter()
            await handle.signal("go")
            taken.append(round(1000 * (float(await handle.result(patience=PATIENCE)) - sent), 3))
        answer(latencies_ms=taken)


async def decision(question: Question) -> None:
    """Answer with the milliseconds from a decision to the next step of the run that waited for it."""
    async with standing() as client:
        taken = []
        handles = [await client.invoke("gated", shape=Shape.WORKFLOW) for _ in range(question.runs)]
        for handle in handles:
            await _parked(client, handle.run_id)
        async for gate in client.approvals(UNDERWRITER).list():
            sent = time.perf_counter()
            await client.approvals(UNDERWRITER).approve(gate.approval_id)
            handle = next(each for each in handles if each.run_id == gate.run_id)
            taken.append(round(1000 * (float(await handle.result(patience=PATIENCE)) - sent), 3))
        answer(latencies_ms=taken)


@asynccontextmanager
async def standing() -> AsyncIterator[Client]:
    """Bring up the suite and a client of it."""
    async with (
        Suite(agents=[AGENTS], ephemeral=True, supervise=False) as suite,
        Client(suite.invoker_addresses[0], approval=suite.addresses["approval"]) as client,
    ):
        yield client


async def _parked(client: Client, run_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while (run := await client.get_run(run_id)).status is not RunStatus.PARKED:
            if run.is_ended:
                raise RuntimeError(f"a run ended {run.status.name}: {run.outcome}")
            await asyncio.sleep(0.1)


async def _none_left(connection: Any, where: str) -> float:
    """Wait until no run stands so, and return when that was seen."""
    async with asyncio.timeout(PATIENCE):
        left = f"SELECT EXISTS (SELECT FROM run_state WHERE {where})"
        while await connection.fetchval(left):  # noqa: ASYNC110 - other processes move them
            await asyncio.sleep(0.02)
    return time.perf_counter()


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: tree_cpu_seconds(pid) for name, pid in pids.items()}
