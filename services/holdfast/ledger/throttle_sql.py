"""The statements of throttling: look through the front of pools, move runs out of claims' way, and back."""

from typing import Final

USERS: Final = 200
"""As many users are looked at again at a time."""

_CAP: Final = """
CROSS JOIN LATERAL (
    SELECT coalesce((user_caps ->> u.user_id)::int, user_cap) AS cap FROM tenant
    WHERE tenant.tenant = u.tenant LIMIT 1) c
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM lease WHERE lease.tenant = u.tenant AND lease.capped_user = u.user_id) l
"""

# The first runs of each pool behind a place in it, with their users.
FRONT: Final = """
SELECT s.place, q.pool, q.tenant, q.rank, q.seq, q.run_id, r.user_id
FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[], $5::int[])
    WITH ORDINALITY AS s (pool, tenant, rank, seq, runs, place)
CROSS JOIN LATERAL (
    SELECT pool, tenant, rank, seq, run_id FROM ready
    WHERE ready.pool = s.pool AND ready.tenant = s.tenant AND (ready.rank, ready.seq) > (s.rank, s.seq)
    ORDER BY rank, seq LIMIT s.runs
) q
CROSS JOIN LATERAL (SELECT user_id FROM run WHERE run.run_id = q.run_id LIMIT 1) r
ORDER BY s.place, q.rank, q.seq
"""

# None is unbounded.
ROOM: Final = f"""
SELECT u.tenant, u.user_id, c.cap - l.n AS room
FROM unnest($1::text[], $2::text[]) AS u (tenant, user_id) {_CAP}
"""  # noqa: S608 - a constant of ours

# $7, $8 the pools and tenants whose turn has brought them nothing: it is over, and others come first.
THROTTLE: Final = """
WITH moved AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[], $5::uuid[], $6::text[])
        AS u (pool, tenant, rank, seq, run_id, user_id)
), gone AS (
    DELETE FROM ready WHERE ctid = ANY(ARRAY(
        SELECT r.place FROM moved m CROSS JOIN LATERAL (
            SELECT ctid AS place FROM ready
            WHERE (pool, tenant, rank, seq) = (m.pool, m.tenant, m.rank, m.seq) LIMIT 1
        ) r
    ))
), kept AS (
    INSERT INTO throttled (tenant, user_id, pool, rank, seq, run_id)
    SELECT tenant, user_id, pool, rank, seq, run_id FROM moved ON CONFLICT DO NOTHING
), noted AS (
    INSERT INTO throttled_user (tenant, user_id, look_time)
    SELECT tenant, user_id, now() + make_interval(secs => $9) FROM moved GROUP BY tenant, user_id
    ON CONFLICT DO NOTHING
)
UPDATE tenant_pool p
SET ready = p.ready - d.n,
    turn = CASE WHEN d.is_over THEN nextval('turn_seq') ELSE p.turn END,
    served = CASE WHEN d.is_over THEN 0 ELSE p.served END
FROM (
    SELECT pool, tenant, count(*) AS n,
           (pool, tenant) IN (SELECT * FROM unnest($7::text[], $8::text[])) AS is_over
    FROM moved GROUP BY pool, tenant
) d
WHERE p.pool = d.pool AND p.tenant = d.tenant
"""

# Of users, the pools in which runs of theirs are throttled one by one, and of each the first runs: as many as
# they are given, if they have room for them. A release of before knows nothing of throttled runs: one that it
# has cancelled, paused or put back stands here still, and is only forgotten.
FREE: Final = f"""
WITH RECURSIVE users AS MATERIALIZED (
    SELECT u.tenant, u.user_id, least(u.runs, c.cap - l.n) AS runs
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS u (tenant, user_id, runs) {_CAP}
), walk AS (
    SELECT u.tenant, u.user_id, u.runs, (
        SELECT min(pool) FROM throttled t WHERE t.tenant = u.tenant AND t.user_id = u.user_id) AS pool
    FROM users u WHERE u.runs > 0
    UNION ALL
    SELECT w.tenant, w.user_id, w.runs, (
        SELECT min(pool) FROM throttled t
        WHERE t.tenant = w.tenant AND t.user_id = w.user_id AND t.pool > w.pool)
    FROM walk w WHERE w.pool IS NOT NULL
), back AS MATERIALIZED (
    SELECT t.*
    FROM walk w CROSS JOIN LATERAL (
        SELECT ctid AS place, tenant, pool, rank, seq, run_id FROM throttled
        WHERE throttled.tenant = w.tenant AND throttled.user_id = w.user_id AND throttled.pool = w.pool
        ORDER BY rank, seq LIMIT w.runs
    ) t
), gone AS (
    DELETE FROM throttled WHERE ctid = ANY(ARRAY(SELECT place FROM back))
), placed AS (
    INSERT INTO ready (pool, tenant, rank, seq, run_id)
    SELECT b.pool, b.tenant, b.rank, b.seq, b.run_id
    FROM back b CROSS JOIN LATERAL (
        SELECT FROM run_state s
        WHERE s.run_id = b.run_id AND s.status = 1 AND s.paused IS NULL AND s.pool = b.pool LIMIT 1
    ) s
    ON CONFLICT DO NOTHING RETURNING pool, tenant
), counted AS (
    INSERT INTO tenant_pool AS p (pool, tenant, ready, capped)
    SELECT placed.pool, placed.tenant, count(*), bool_or(t.in_flight >= t.max_in_flight)
    FROM placed JOIN tenant t ON t.tenant = placed.tenant GROUP BY placed.pool, placed.tenant
    ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready, capped = excluded.capped
    RETURNING pool
)
SELECT DISTINCT pool FROM counted
"""  # noqa: S608 - a constant of ours

LEAVE: Final = """
WITH run AS MATERIALIZED (
    SELECT s.tenant, r.user_id, s.pool, s.rank, s.seq
    FROM unnest($1::uuid[]) AS u (run_id)
    JOIN run_state s ON s.run_id = u.run_id JOIN run r ON r.run_id = u.run_id
    WHERE r.user_id <> ''
), gone AS (
    DELETE FROM throttled WHERE ctid = ANY(ARRAY(
        SELECT t.place FROM run CROSS JOIN LATERAL (
            SELECT ctid AS place FROM throttled
            WHERE (tenant, user_id, pool, rank, seq) = (run.tenant, run.user_id, run.pool, run.rank, run.seq)
            LIMIT 1
        ) t
    ))
)
SELECT tenant, user_id, count(*) AS runs FROM run GROUP BY tenant, user_id
"""

REASON: Final = f"""
SELECT CASE WHEN t.user_caps ? u.user_id THEN 'max_in_flight_by_user' ELSE 'max_in_flight_per_user' END
       || ' of ' || u.user_id || ' is reached: ' || c.cap
FROM (SELECT $1::text, $2::text) AS u (tenant, user_id) {_CAP} JOIN tenant t ON t.tenant = u.tenant
WHERE u.user_id <> '' AND l.n >= c.cap
"""  # noqa: S608 - a constant of ours

DUE: Final = f"""
SELECT tenant FROM throttled_user WHERE look_time <= now() ORDER BY look_time LIMIT {USERS}
"""  # noqa: S608 - a constant of ours

LOCK: Final = """
SELECT tenant FROM tenant WHERE tenant = ANY($1::text[]) ORDER BY tenant FOR NO KEY UPDATE
"""

LOOK: Final = f"""
SELECT u.tenant, u.user_id, c.cap - l.n AS room, EXISTS (
    SELECT FROM throttled t WHERE t.tenant = u.tenant AND t.user_id = u.user_id) AS waits
FROM (
    SELECT tenant, user_id, look_time FROM throttled_user
    WHERE tenant = ANY($1::text[]) AND look_time <= now() ORDER BY look_time LIMIT {USERS}
) u {_CAP}
ORDER BY u.look_time, u.tenant, u.user_id
"""  # noqa: S608 - a constant of ours

LATER: Final = """
UPDATE throttled_user t SET look_time = now() + make_interval(secs => $3)
FROM unnest($1::text[], $2::text[]) AS u (tenant, user_id)
WHERE t.tenant = u.tenant AND t.user_id = u.user_id
"""

DONE: Final = """
DELETE FROM throttled_user t USING unnest($1::text[], $2::text[]) AS u (tenant, user_id)
WHERE t.tenant = u.tenant AND t.user_id = u.user_id
"""

ANEW: Final = "UPDATE throttled_user SET look_time = now() WHERE tenant = $1"
