"""The statements of a claim: find whose turn it is, lock them, look again, take."""

from typing import Final

# As many tenants as there are slots, for each can have one: a tenant stands in the ring of each of its
# pools, and what it may take does not grow with them.
_RING: Final = """
WITH ring AS MATERIALIZED (
    SELECT r.tenant, r.turn
    FROM unnest($1::text[]) AS p (pool) CROSS JOIN LATERAL (
        SELECT t.tenant, t.turn FROM tenant_pool t
        WHERE t.pool = p.pool AND t.ready > 0 AND NOT t.capped AND NOT t.held ORDER BY t.turn LIMIT $2
    ) r
), candidate AS MATERIALIZED (
    SELECT tenant FROM ring GROUP BY tenant ORDER BY min(turn) LIMIT $2
)
"""

# MATERIALIZED above: a LIMIT that is executed again around SKIP LOCKED would lock more than it says.
LOCK_FREE: Final = f"""{_RING}
SELECT c.tenant, t.tenant IS NOT NULL AS locked
FROM candidate c LEFT JOIN LATERAL (
    SELECT tenant FROM tenant WHERE tenant.tenant = c.tenant FOR NO KEY UPDATE SKIP LOCKED
) t ON true
"""  # noqa: S608 - a constant of ours

LOCK_WAITING: Final = f"""{_RING}
SELECT tenant, true AS locked FROM tenant
WHERE tenant = ANY(ARRAY(SELECT tenant FROM candidate)) ORDER BY tenant FOR NO KEY UPDATE
"""  # noqa: S608 - a constant of ours

# Those whose turn it is, and in rows of their own the sessions that live. The sessions are locked so that a
# sweep that buries one cannot miss a lease given to it meanwhile.
TURNS: Final = """
WITH alive AS MATERIALIZED (
    SELECT session_id FROM runner_session
    WHERE session_id = ANY($3::uuid[]) AND expire_time > clock_timestamp() FOR KEY SHARE
)
SELECT p.pool, p.tenant, p.turn, p.ready, p.served, t.weight, t.max_in_flight - t.in_flight AS room,
       t.intent_caps::text AS intent_caps, num_nonnulls(t.user_cap, t.user_caps) > 0 AS by_user,
       NULL::uuid AS session_id
FROM unnest($1::text[]) AS c (tenant)
JOIN tenant t ON t.tenant = c.tenant
CROSS JOIN unnest($2::text[]) AS s (pool)
JOIN tenant_pool p ON p.pool = s.pool AND p.tenant = t.tenant
WHERE p.ready > 0
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, session_id FROM alive
"""

# $1.. one row per (pool, tenant) and how many of its runs, in the order of their next turns; $6 a seat (a
# session) for each run; $7, $8 how much of its turn each has served then, and whether that is a new one; $9
# as which capped intent its leases count, $10 whether they count against a cap of their users. No row set is
# joined to another: the planner cannot know their size, and would compare each with each.
TAKE: Final = """
WITH share AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $7::int[], $8::boolean[],
                         $9::text[], $10::boolean[])
        WITH ORDINALITY AS u (pool, tenant, wanted, next_pool, agent_version, served, has_new_turn,
                              capped_intent, by_user, place)
), picked AS MATERIALIZED (
    SELECT s.place, s.next_pool, s.agent_version, s.served, s.has_new_turn, s.capped_intent, s.by_user,
           r.*, row_number() OVER (ORDER BY s.place, r.rank, r.seq) AS seat
    FROM share s CROSS JOIN LATERAL (
        SELECT ctid AS row, pool, tenant, rank, seq, run_id FROM ready
        WHERE ready.pool = s.pool AND ready.tenant = s.tenant ORDER BY rank, seq LIMIT s.wanted
    ) r
), taken AS (
    DELETE FROM ready WHERE ctid = ANY(ARRAY(SELECT row FROM picked))
), started AS (
    UPDATE run_state s
    SET status = CASE WHEN s.undoing IS NULL THEN 2 ELSE 4 END, epoch = s.epoch + 1,
        attempt = s.attempt + 1, pool = p.next_pool, agent_version = p.agent_version,
        start_time = coalesce(s.start_time, clock_timestamp())
    FROM picked p
    JOIN run r ON r.run_id = p.run_id
    WHERE s.run_id = p.run_id
    RETURNING p.seat, p.pool AS taken_from, ($6::uuid[])[p.seat] AS session_id, r.intent, r.envelope, r.shape,
              s.run_id, s.tenant, s.epoch, s.attempt, s.max_attempts, s.deadline_ms, s.max_steps, s.max_tools,
              s.max_tokens, s.max_context, s.create_time, s.deadline_time, s.last_commit, s.last_sequence,
              s.steps, s.tools, s.tokens, s.context, s.cancel_requested, s.mail_last, s.lent_steps,
              s.lent_tools, s.lent_tokens, s.waits, s.undoing::text AS undoing, p.capped_intent,
              CASE WHEN p.by_user THEN nullif(r.user_id, '') END AS capped_user
), leases AS (
    INSERT INTO lease (run_id, session_id, epoch, tenant, capped_intent, capped_user)
    SELECT run_id, session_id, epoch, tenant, capped_intent, capped_user FROM started
), pools AS (
    UPDATE tenant_pool t
    SET ready = t.ready - d.n, served = d.served,
        turn = CASE WHEN d.has_new_turn THEN nextval('turn_seq') ELSE t.turn END
    FROM (
        SELECT pool, tenant, served, has_new_turn, count(*) AS n FROM picked
        GROUP BY pool, tenant, served, has_new_turn ORDER BY min(place)
    ) d
    WHERE t.pool = d.pool AND t.tenant = d.tenant
), counted AS (
    UPDATE tenant t SET in_flight = t.in_flight + d.n, queued = t.queued - d.n
    FROM (SELECT tenant, count(*) AS n FROM picked GROUP BY tenant) d WHERE t.tenant = d.tenant
)
SELECT *, extract(epoch FROM deadline_time - clock_timestamp())::float8 AS remaining_s
FROM started ORDER BY seat
"""

# A share that found fewer runs than `ready` promised: there are no more.
EMPTY: Final = """
UPDATE tenant_pool t SET ready = 0 FROM unnest($1::text[], $2::text[]) AS u (pool, tenant)
WHERE t.pool = u.pool AND t.tenant = u.tenant
"""

CAP: Final = "UPDATE tenant_pool SET capped = true WHERE tenant = ANY($1::text[]) AND NOT capped"
