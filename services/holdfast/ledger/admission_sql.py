"""The statements of admission: lock the tenants, look at what the decision needs, write what was decided."""

from typing import Final

LOCK_TENANTS: Final = """
SELECT tenant, in_flight, max_in_flight, queued, max_queued, rate, burst_room, spent, spent_time,
       deadline_ms, max_steps, max_tools, max_tokens, max_context, intent_caps::text AS intent_caps,
       num_nonnulls(user_cap, user_caps) > 0 AS by_user
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
WHERE EXISTS (SELECT FROM tenant_pool t WHERE t.pool = p AND t.ready > 0 AND NOT t.capped AND NOT t.held)
UNION ALL
SELECT {ALIVE}, NULL, session_id, NULL, NULL, NULL, NULL FROM alive
UNION ALL
SELECT {SEQ}, NULL, NULL, NULL, nextval('run_seq'), NULL, clock_timestamp() FROM wanted
"""  # noqa: S608 - the numbers above are the only insertions

# What a new run is, in rows; `new` has a row for each, with all that these ask for. Its `ordering_key` is the
# run's lane: a session's is no key of its caller's.
_ROWS: Final = """
runs AS (
    INSERT INTO run (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key,
                     correlation_id, session_id, ordering_key, priority, labels, envelope)
    SELECT run_id, seq, tenant, now, intent, shape, user_id, idempotency_key,
           correlation_id, session_id, CASE session_id WHEN '' THEN ordering_key ELSE '' END, priority,
           labels::jsonb, envelope FROM new
), states AS (
    INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch, attempt,
                           max_attempts, last_sequence, create_time, start_time, deadline_time, max_steps,
                           max_tools, max_tokens, max_context, deadline_ms, agent_version, shape)
    SELECT run_id, tenant, seq, now::date, pool, -priority, ordering_key,
           CASE place WHEN 1 THEN 2 ELSE 1 END, CASE place WHEN 1 THEN 1 ELSE 0 END,
           CASE place WHEN 1 THEN 1 ELSE 0 END, max_attempts, 1, now, CASE place WHEN 1 THEN now END,
           deadline_time, max_steps, max_tools, max_tokens, max_context, deadline_ms, agent_version, shape
    FROM new
), keys AS (
    INSERT INTO idempotency (tenant, idempotency_key, run_id, fingerprint)
    SELECT tenant, idempotency_key, run_id, fingerprint FROM new
), notes AS (
    INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
    SELECT now::date, run_id, 1, 1, jsonb_build_object(
        'kind', 'accepted', 'time', now, 'budget', jsonb_build_object(
            'deadline_ms', deadline_ms, 'max_steps', max_steps, 'max_tools', max_tools,
            'max_tokens', max_tokens, 'max_context', max_context)) FROM new
), leases AS (
    INSERT INTO lease (run_id, session_id, epoch, tenant)
    SELECT run_id, runner_session, 1, tenant FROM new WHERE place = 1
)"""

# $1 the moment of acceptance; then a column per value of the new runs, the tenants' new counters, and how
# many runs became ready in which pools.
INSERT: Final = f"""
WITH new AS MATERIALIZED (
    SELECT u.*, $1::timestamptz AS now FROM unnest(
        $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::smallint[], $12::text[], $13::bytea[], $14::bytea[], $15::text[], $16::int[],
        $17::text[], $18::uuid[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[],
        $24::bigint[], $25::smallint[], $26::timestamptz[], $27::timestamptz[]
    ) AS u (
        run_id, tenant, intent, shape, user_id, idempotency_key, correlation_id, session_id, ordering_key,
        priority, labels, envelope, fingerprint, pool, max_attempts, agent_version, runner_session,
        deadline_ms, max_steps, max_tools, max_tokens, max_context, seq, place, not_before, deadline_time
    )
), {_ROWS}, timers AS (
    INSERT INTO timer (run_id, kind, due_time)
    SELECT run_id, 1, deadline_time FROM new
    UNION ALL SELECT run_id, 2, not_before FROM new WHERE not_before IS NOT NULL
), waiting AS (
    INSERT INTO ready (pool, tenant, rank, seq, run_id)
    SELECT pool, tenant, -priority, seq, run_id FROM new WHERE place = 2
), counted AS (
    UPDATE tenant SET in_flight = u.in_flight, queued = u.queued, spent = u.spent, spent_time = $1
    FROM unnest($28::text[], $29::int[], $30::int[], $35::float8[]) AS u (tenant, in_flight, queued, spent)
    WHERE tenant.tenant = u.tenant
), pools AS (
    INSERT INTO tenant_pool AS p (pool, tenant, ready, capped)
    SELECT * FROM unnest($31::text[], $32::text[], $33::int[], $34::boolean[])
    ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready, capped = excluded.capped
), behind AS (
    INSERT INTO blocked (tenant, ordering_key, seq, run_id)
    SELECT tenant, ordering_key, seq, run_id FROM new WHERE place = 3
)
INSERT INTO lane (tenant, ordering_key, holder)
SELECT tenant, ordering_key, run_id FROM new WHERE ordering_key <> '' AND place <> 3
"""  # noqa: S608 - a constant of ours


def _leaked(bucket: str, moment: str) -> str:
    """Return `domain.rate.leaked` as SQL."""
    elapsed = f"extract(epoch FROM {moment} - {bucket}.spent_time)::float8"
    return f"greatest(0, {bucket}.spent - {bucket}.rate * greatest(0, {elapsed}))"


# Everything at once for runs that go straight to idle runners, if under the tenants' locks it turns out that
# nothing speaks against it: all sessions live, no pool has runs that wait, no tenant comes to its cap, has
# caps of intents or users, or is above its rate (`domain.rate`), every key and id is new. Else nothing is
# done, and there are no rows. What a statement sees is older than the locks it has waited for; the counters
# are read from the locked rows, and an id or key that someone else has taken meanwhile is a unique violation.
# $1..$22 as $2..$23 of INSERT; the tenants, and how many runs each has here; the sessions; the pools.
PLACE: Final = f"""
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::smallint[], $11::text[], $12::bytea[], $13::bytea[], $14::text[], $15::int[],
        $16::text[], $17::uuid[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[]
    ) WITH ORDINALITY AS u (
        run_id, tenant, intent, shape, user_id, idempotency_key, correlation_id, session_id, ordering_key,
        priority, labels, envelope, fingerprint, pool, max_attempts, agent_version, runner_session,
        deadline_ms, max_steps, max_tools, max_tokens, max_context, at
    )
), door AS MATERIALIZED (
    SELECT tenant, in_flight, max_in_flight, intent_caps, user_cap, user_caps, rate, burst_room, spent,
           spent_time, deadline_ms, max_steps, max_tools, max_tokens, max_context
    FROM tenant WHERE tenant = ANY($23::text[]) ORDER BY tenant FOR NO KEY UPDATE
), roomy AS MATERIALIZED (
    SELECT count(*) AS tenants
    FROM door d JOIN unnest($23::text[], $24::int[]) AS u (tenant, runs) ON u.tenant = d.tenant
    WHERE d.in_flight + u.runs < d.max_in_flight AND num_nonnulls(d.intent_caps, d.user_caps, d.user_cap) = 0
          AND {_leaked("d", "clock_timestamp()")} + u.runs <= d.burst_room
), alive AS MATERIALIZED (
    SELECT session_id FROM runner_session
    WHERE session_id = ANY($25::uuid[]) AND expire_time > clock_timestamp()
          AND (SELECT tenants FROM roomy) = cardinality($23::text[]) FOR KEY SHARE
), moment AS MATERIALIZED (
    SELECT clock_timestamp() AS now
    WHERE (SELECT count(*) FROM alive) = cardinality($25::uuid[])
      AND NOT EXISTS (SELECT FROM unnest($26::text[]) AS p CROSS JOIN LATERAL (
              SELECT FROM tenant_pool t
              WHERE t.pool = p AND t.ready > 0 AND NOT t.capped AND NOT t.held LIMIT 1) t)
      AND NOT EXISTS (SELECT FROM asked CROSS JOIN LATERAL (
              SELECT FROM idempotency i
              WHERE i.tenant = asked.tenant AND i.idempotency_key = asked.idempotency_key LIMIT 1) i)
      AND NOT EXISTS (SELECT FROM run WHERE run_id = ANY($1::uuid[]))
), new AS MATERIALIZED (
    SELECT a.at, a.run_id, a.tenant, a.intent, a.shape, a.user_id, a.idempotency_key, a.correlation_id,
           a.session_id, a.ordering_key, a.priority, a.labels, a.envelope, a.fingerprint, a.pool,
           a.max_attempts, a.agent_version, a.runner_session, l.*, m.now, nextval('run_seq') AS seq,
           1 AS place, m.now + make_interval(secs => l.deadline_ms / 1000.0) AS deadline_time
    FROM moment m CROSS JOIN asked a JOIN door d ON d.tenant = a.tenant CROSS JOIN LATERAL (
        SELECT coalesce(nullif(a.deadline_ms, 0), d.deadline_ms) AS deadline_ms,
               coalesce(nullif(a.max_steps, 0), d.max_steps) AS max_steps,
               coalesce(nullif(a.max_tools, 0), d.max_tools) AS max_tools,
               coalesce(nullif(a.max_tokens, 0), d.max_tokens) AS max_tokens,
               coalesce(nullif(a.max_context, 0), d.max_context) AS max_context
    ) l
), {_ROWS}, timers AS (
    INSERT INTO timer (run_id, kind, due_time) SELECT run_id, 1, deadline_time FROM new
), counted AS (
    UPDATE tenant t SET in_flight = in_flight + u.n, spent = {_leaked("t", "u.now")} + u.n, spent_time = u.now
    FROM (SELECT tenant, now, count(*) AS n FROM new GROUP BY tenant, now) u WHERE t.tenant = u.tenant
)
SELECT seq, now, deadline_time, deadline_ms, max_steps, max_tools, max_tokens, max_context
FROM new ORDER BY at
"""  # noqa: S608 - a constant of ours

CAP: Final = "UPDATE tenant_pool SET capped = true WHERE tenant = ANY($1::text[]) AND NOT capped"

FOUND: Final = """
SELECT run_id, status, pool, seq, create_time, deadline_time,
       deadline_ms, max_steps, max_tools, max_tokens, max_context
FROM run_state WHERE run_id = ANY($1::uuid[])
"""
