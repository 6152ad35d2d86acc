"""How many staged items a second become effects and are known to be applied, with no network in between."""

import asyncio
import time
import uuid
from typing import Any

import asyncpg

from bench.protocol import Question, answer
from holdfast.client import ApplyEffect, BatchStatus, Client, Destination
from holdfast.dev import Suite
from holdfast.embedded import EmbeddedPostgres
from holdfast.ledger import migrate
from holdfast.v1.batch_pb2 import BatchSpec

AGENTS = "bench.ours.agents:app"
ITEMS = 50_000
PATIENCE = 300.0
_LOOPBACK = {"HOLDFAST_ALLOW_PRIVATE_ADDRESSES": "1"}

# As reviews leave them: every item accepted, its output in staging beside what is there now.
_STAGED = """
WITH filled AS MATERIALIZED (
    SELECT n AS index, 'account-' || n AS key FROM generate_series(0, $2::bigint - 1) AS n
), tenants AS (
    INSERT INTO tenant (tenant) VALUES ('default') ON CONFLICT DO NOTHING
), made AS (
    INSERT INTO batch (batch_id, tenant, intent, idempotency_key, fingerprint, spec, status, uploaded,
                       skip_staging, in_order, start_when_uploaded, max_parallelism, priority, max_attempts,
                       initial_backoff_ms, max_backoff_ms, tolerated_items, tolerated_share, label_field,
                       confidence_field)
    VALUES ($1, 'default', 'w1', 'bench', '', $3, 4, $2, false, false, false, 100, 0, 1, 100, 1000, 0, 1,
            'industry', '')
), inputs AS (
    INSERT INTO batch_input (batch_id, index, key, payload, current)
    SELECT $1, index, key, convert_to('{"name":"Ashby & Sons","city":"Leeds"}', 'UTF8'),
           convert_to('{"industry":"unknown"}', 'UTF8') FROM filled
), items AS (
    INSERT INTO batch_item (batch_id, index, status, label) SELECT $1, index, 4, 'retail' FROM filled
), outputs AS (
    INSERT INTO batch_output (batch_id, index, output)
    SELECT $1, index, convert_to('{"industry":"retail","confidence":0.93}', 'UTF8') FROM filled
)
INSERT INTO batch_count (batch_id, status, n) VALUES ($1, 4, $2)
"""

# No dispatcher calls while the breaker is open; what it would do is done here, without a call.
_SHUT = """
UPDATE destination_state
SET breaker = 2, open_time = clock_timestamp(), probe_time = clock_timestamp() + interval '1 day'
"""
_DELIVERED = """
WITH due AS (
    DELETE FROM effect_due WHERE ctid = ANY(ARRAY(SELECT ctid FROM effect_due LIMIT 1000)) RETURNING effect_id
)
UPDATE effect SET status = 3, attempts = 1, deliver_time = clock_timestamp()
WHERE effect_id = ANY(ARRAY(SELECT effect_id FROM due))
"""


async def batch_apply(_question: Question) -> None:
    """Answer with items a second, from ApplyBatch until all of 50,000 have been applied."""
    async with EmbeddedPostgres(ephemeral=True) as server:
        await server.create_database("holdfast")
        url = server.url("holdfast")
        await migrate(url)
        connection = await asyncpg.connect(url, server_settings={"search_path": "holdfast"})
        try:
            async with (
                Suite([AGENTS], database_url=url, supervise=False, environment=_LOOPBACK) as suite,
                Client(suite.invoker_addresses[0], dispatcher=suite.addresses["dispatcher"]) as client,
            ):
                await client.outbox.put_destination(Destination("crm", "http://127.0.0.1:9/tag"))
                await connection.execute(_SHUT)
                answer(**await _applied(connection, client))
        finally:
            await connection.close()


async def _applied(connection: Any, client: Client) -> dict[str, float]:
    batch_id = uuid.uuid4()
    spec = BatchSpec(label_field="industry")
    spec.invocation.intent = "w1"
    await connection.execute(_STAGED, batch_id, ITEMS, spec.SerializeToString(), timeout=PATIENCE)
    await connection.execute("VACUUM ANALYZE", timeout=PATIENCE)
    began = time.perf_counter()
    await client.batches.apply(str(batch_id), ApplyEffect("crm"))
    staged = 0.0
    async with asyncio.timeout(PATIENCE):
        while (await client.batches.get(str(batch_id)))[0].status is not BatchStatus.APPLIED:
            done = await connection.execute(_DELIVERED)
            if done == "UPDATE 0":
                await asyncio.sleep(0.005)
            else:
                staged = time.perf_counter() - began
    seconds = time.perf_counter() - began
    return {"batch_apply_per_s": round(ITEMS / seconds, 1), "last_delivered_s": round(staged, 3)}
