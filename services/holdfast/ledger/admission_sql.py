"""The statements of admission: lock the tenants, look at what the decision needs, write what was decided."""

from typing import Final

LOCK_TENANTS: Final = """
SELECT tenant, in_flight, max_in_flight, queued, max_queued,
       deadline_ms, max_steps, max_tools, max_tokens, max_context
FROM tenant WHERE tenant = ANY($1::text[]) ORDER BY tenant FOR NO KEY UPDATE
"""

ADD_TENANTS: Final = """
INSERT INTO tenant (tenant) SELECT DISTINCT u FROM unnest($1::text[]) AS u ORDER BY u ON CONFLICT DO NOTHING
"""

# One round trip for all the questions. `place` is the invocation's place in the group, from 1.
# The sessions are locked so that a sweep that buries one cannot miss a lease placed on it meanwhile.
KNOWN, TAKEN, HELD, BUSY, ALIVE, SEQ = range(1, 7)
LOOK: Final = f"""
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) WITH ORDINALITY
        AS u (tenant, idempotency_key, run_id, ordering_key, place)
), alive AS MATERIALIZED (
    SELECT session_id FROM runner_session
    WHERE session_id = ANY($5::uuid[]) AND expire_time > clock_timestamp() FOR KEY SHARE
)
SELECT {KNOWN} AS kind, w.place, i.run_id AS id, i.fingerprint, NULL::bigint AS seq, NULL::text AS pool,
       NULL::timestamptz AS now
FROM wanted w CROSS JOIN LATERAL (
    SELECT run_id, fingerprint FROM idempotency
    WHERE idempotency.tenant = w.tenant AND idempotency.idempotency_key = w.idempotency_key LIMIT 1
) i
UNION ALL
SELECT {TAKEN}, w.place, NULL, NULL, NULL, NULL, NULL
FROM wanted w CROSS JOIN LATERAL (SELECT FROM run WHERE run.run_id = w.run_id LIMIT 1) r
UNION ALL
SELECT {HELD}, w.place, NULL, NULL, NULL, NULL, NULL
FROM wanted w CROSS JOIN LATERAL (
    SELECT FROM lane WHERE lane.tenant = w.tenant AND lane.ordering_key = w.ordering_key LIMIT 1
) l
WHERE w.ordering_key <> ''
UNION ALL
SELECT {BUSY}, NULL, NULL, NULL, NULL, p, NULL FROM unnest($6::text[]) AS p
WHERE EXISTS (SELECT FROM tenant_pool t WHERE t.pool = p AND t.ready > 0 AND NOT t.capped)
UNION ALL
SELECT {ALIVE}, NULL, session_id, NULL, NULL, NULL, NULL FROM alive
UNION ALL
SELECT {SEQ}, NULL, NULL, NULL, nextval('run_seq'), NULL, clock_timestamp() FROM wanted
"""  # noqa: S608 - the numbers above are the only insertions

# $1 the moment of acceptance, $2 its day; then a column per value of the new runs, the tenants' new counters,
# and how many runs became ready in which pools.
INSERT: Final = """
WITH new AS MATERIALIZED (
    SELECT * FROM unnest(
        $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::smallint[], $8::text[], $9::text[], $10::text[],
        $11::text[], $12::text[], $13::smallint[], $14::text[], $15::bytea[], $16::bytea[], $17::text[],
        $18::smallint[], $19::int[], $20::timestamptz[], $21::timestamptz[], $22::bigint[], $23::bigint[],
        $24::bigint[], $25::bigint[], $26::bigint[], $27::text[], $28::uuid[]
    ) AS u (
        run_id, seq, tenant, intent, shape, user_id, idempotency_key, correlation_id,
        session_id, ordering_key, priority, labels, envelope, fingerprint, pool,
        place, max_attempts, not_before, deadline_time, deadline_ms, max_steps,
        max_tools, max_tokens, max_context, agent_version, runner_session
    )
), runs AS (
    INSERT INTO run (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key,
                     correlation_id, session_id, ordering_key, priority, labels, envelope)
    SELECT run_id, seq, tenant, $1, intent, shape, user_id, idempotency_key,
           correlation_id, session_id, ordering_key, priority, labels::jsonb, envelope FROM new
), states AS (
    INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch, attempt,
                           max_attempts, last_sequence, create_time, start_time, deadline_time, max_steps,
                           max_tools, max_tokens, max_context, deadline_ms, agent_version)
    SELECT run_id, tenant, seq, $2, pool, -priority, ordering_key,
           CASE place WHEN 1 THEN 2 ELSE 1 END, CASE place WHEN 1 THEN 1 ELSE 0 END,
           CASE place WHEN 1 THEN 1 ELSE 0 END, max_attempts, 1, $1, CASE place WHEN 1 THEN $1 END,
           deadline_time, max_steps, max_tools, max_tokens, max_context, deadline_ms, agent_version FROM new
), keys AS (
    INSERT INTO idempotency (tenant, idempotency_key, run_id, fingerprint)
    SELECT tenant, idempotency_key, run_id, fingerprint FROM new
), notes AS (
    INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
    SELECT $2, run_id, 1, 1, jsonb_build_object(
        'kind', 'accepted', 'time', $1::timestamptz, 'budget', jsonb_build_object(
            'deadline_ms', deadline_ms, 'max_steps', max_steps, 'max_tools', max_tools,
            'max_tokens', max_tokens, 'max_context', max_context)) FROM new
), timers AS (
    INSERT INTO timer (run_id, kind, due_time)
    SELECT run_id, 1, deadline_time FROM new
    UNION ALL SELECT run_id, 2, not_before FROM new WHERE not_before IS NOT NULL
), leases AS (
    INSERT INTO lease (run_id, session_id, epoch, tenant)
    SELECT run_id, runner_session, 1, tenant FROM new WHERE place = 1
), waiting AS (
    INSERT INTO ready (pool, tenant, rank, seq, run_id)
    SELECT pool, tenant, -priority, seq, run_id FROM new WHERE place = 2
), counted AS (
    UPDATE tenant SET in_flight = u.in_flight, queued = u.queued
    FROM unnest($29::text[], $30::int[], $31::int[]) AS u (tenant, in_flight, queued)
    WHERE tenant.tenant = u.tenant
), pools AS (
    INSERT INTO tenant_pool AS p (pool, tenant, ready, capped)
    SELECT * FROM unnest($32::text[], $33::text[], $34::int[], $35::boolean[])
    ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready, capped = excluded.capped
), behind AS (
    INSERT INTO blocked (tenant, ordering_key, seq, run_id)
    SELECT tenant, ordering_key, seq, run_id FROM new WHERE place = 3
)
INSERT INTO lane (tenant, ordering_key, holder)
SELECT tenant, ordering_key, run_id FROM new WHERE ordering_key <> '' AND place <> 3
"""

CAP: Final = "UPDATE tenant_pool SET capped = true WHERE tenant = ANY($1::text[]) AND NOT capped"

FOUND: Final = """
SELECT run_id, status, pool, seq, create_time, deadline_time,
       deadline_ms, max_steps, max_tools, max_tokens, max_context
FROM run_state WHERE run_id = ANY($1::uuid[])
"""
