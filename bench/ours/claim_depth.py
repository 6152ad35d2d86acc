"""What a claim costs, by how much waits: the verb itself, on a ledger filled by SQL."""

import statistics
import time
import uuid

from holdfast.kit.db import Database
from holdfast.kit.ids import new_id
from holdfast.ledger.claim import Demand, claim
from holdfast.ledger.session import RunnerSession, open_session
from holdfast.ledger.session_settings import SESSION_SETTINGS
from holdfast.ledger.values import ServedIntent

DEPTHS = (1_000, 1_000_000)
TENANTS = 100
BATCH = 10
ROUNDS = 60
FILL_TIMEOUT_SECONDS = 600.0

_FILL = (
    """
INSERT INTO tenant (tenant, max_in_flight, max_queued, queued)
SELECT 't' || n, 1000000000, 1000000000, $1::int / $2::int FROM generate_series(1, $2::int) AS n
""",
    """
INSERT INTO tenant_pool (pool, tenant, ready)
SELECT 'w1', 't' || n, $1::int / $2::int FROM generate_series(1, $2::int) AS n
""",
    """
WITH filled AS (
    SELECT gen_random_uuid() AS run_id, nextval('run_seq') AS seq, 't' || (1 + n % $2::int) AS tenant
    FROM generate_series(1, $1::int) AS n
), runs AS (
    INSERT INTO run (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key,
                     correlation_id, session_id, ordering_key, priority, envelope)
    SELECT run_id, seq, tenant, now(), 'w1', 2, '', run_id::text, '', '', '', 0, '' FROM filled
), states AS (
    INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch, attempt,
                           max_attempts, last_sequence, create_time, deadline_time, max_steps, max_tools,
                           max_tokens, max_context, deadline_ms)
    SELECT run_id, tenant, seq, current_date, 'w1', 0, '', 1, 0, 0, 5, 1, now(), now() + interval '1 day',
           1000, 1000, 1000000, 128000, 86400000 FROM filled
)
INSERT INTO ready (pool, tenant, rank, seq, run_id) SELECT 'w1', tenant, 0, seq, run_id FROM filled
""",
)


async def claim_depth_ratio(database_url: str) -> dict[str, object]:
    """Return the median milliseconds of a claim of ten runs at each depth, and their ratio."""
    cost = {depth: await _claim_ms(database_url, depth) for depth in DEPTHS}
    shallow, deep = (cost[depth] for depth in DEPTHS)
    return {
        "claim_depth_ratio": round(deep / shallow, 3),
        "claim_ms": {str(k): round(v, 3) for k, v in cost.items()},
    }


async def _claim_ms(database_url: str, depth: int) -> float:
    async with await Database.connect(
        database_url,
        application_name="bench",
        server_settings=SESSION_SETTINGS,
        statement_timeout=FILL_TIMEOUT_SECONDS,
    ) as db:
        async with db.connection() as connection:
            await connection.execute(
                "TRUNCATE tenant, tenant_pool, run, run_state, ready, lease, runner_session, transcript"
            )
            for statement in _FILL:
                await connection.execute(statement, depth, TENANTS, timeout=FILL_TIMEOUT_SECONDS)
            await connection.execute("VACUUM ANALYZE", timeout=FILL_TIMEOUT_SECONDS)
            await connection.execute("CHECKPOINT")
        session = RunnerSession(uuid.uuid4(), new_id(), "127.0.0.1:1", (ServedIntent("w1", "1"),))
        await open_session(db, session, ttl_s=3600)
        demand = Demand(session_id=session.session_id, intents=session.intents, slots=BATCH)
        taken = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            leased = await claim(db, [demand])
            taken.append(1000 * (time.perf_counter() - began))
            if len(leased) != BATCH:
                raise RuntimeError(f"a claim of {BATCH} at depth {depth:,} took {len(leased)}")
        return statistics.median(taken)
