"""The statements of a batch's steps: look without a lock, lock, start items, skip, clear."""

from typing import Final

ACTIVE: Final = """
SELECT batch_id, tenant FROM batch_active WHERE batch_id > $1 ORDER BY batch_id LIMIT $2
"""
LOOK: Final = """
SELECT b.*, (SELECT jsonb_object_agg(status, n)::text FROM batch_count c WHERE c.batch_id = $1) AS counts
FROM batch b WHERE b.batch_id = $1 AND b.tenant = $2
"""
# With what was prepared and still waits, by its attempts: under the tenant's lock each round trip counts.
# Those in flight are light all alike, or nearly.
LOCK: Final = """
SELECT b.*, (SELECT jsonb_object_agg(status, n)::text FROM batch_count c WHERE c.batch_id = $1) AS counts,
       (SELECT jsonb_object_agg(index, attempts)::text FROM batch_item i
        WHERE i.batch_id = $1 AND i.index = ANY($3::bigint[]) AND i.status = 1) AS waiting,
       (SELECT light FROM batch_run r WHERE r.batch_id = $1 LIMIT 1) AS light
FROM batch b WHERE b.batch_id = $1 AND b.tenant = $2 FOR NO KEY UPDATE OF b
"""
LEAVE: Final = "DELETE FROM batch_active WHERE batch_id = $1"

# Those to be tried again first, by their time, then those never tried, by index; both read the same index.
# Of those that are to be alone one at a time: what kills a runner shall not take others with it.
DUE: Final = """
(
    SELECT index, attempts, alone FROM batch_item
    WHERE batch_id = $1 AND status = 1 AND alone
          AND (not_before IS NULL OR not_before <= statement_timestamp())
          AND NOT EXISTS (SELECT FROM batch_item r WHERE r.batch_id = $1 AND r.status = 2 AND r.alone)
    ORDER BY index LIMIT 1
) UNION ALL (
    SELECT index, attempts, alone FROM batch_item
    WHERE batch_id = $1 AND status = 1 AND NOT alone AND coalesce(not_before, '-infinity') > '-infinity'
          AND coalesce(not_before, '-infinity') <= statement_timestamp()
    ORDER BY coalesce(not_before, '-infinity'), index LIMIT $2
) UNION ALL (
    SELECT index, attempts, alone FROM batch_item
    WHERE batch_id = $1 AND status = 1 AND NOT alone AND coalesce(not_before, '-infinity') = '-infinity'
    ORDER BY index LIMIT $2
) LIMIT $2
"""
# In order only the first counts, and it holds up those behind it until its time has come.
FIRST: Final = """
SELECT index, attempts, alone FROM (
    SELECT index, attempts, alone, not_before FROM batch_item
    WHERE batch_id = $1 AND status = 1 ORDER BY index LIMIT least(1, $2::bigint)
) f WHERE not_before IS NULL OR not_before <= statement_timestamp()
"""
# Whether the intent's items are light is its runners' word; while none is there, their last. Sessions and
# versions of intents are few.
SERVED: Final = """
WITH alive AS MATERIALIZED (
    SELECT served ->> 'intent' AS intent, served ->> 'agent_version' AS agent_version
    FROM runner_session CROSS JOIN jsonb_array_elements(intents) AS served
    WHERE expire_time > statement_timestamp() AND served ->> 'intent' IN ($2, $3)
)
SELECT ARRAY(
           SELECT agent_version FROM alive WHERE intent = $3
           UNION SELECT agent_version FROM served_intent WHERE intent = $3 AND NOT EXISTS (SELECT FROM alive)
       ) AS light, deadline_ms, max_steps, max_tools, max_tokens, max_context
FROM tenant WHERE tenant = $1
"""
PAYLOADS: Final = "SELECT index, payload FROM batch_input WHERE batch_id = $1 AND index = ANY($2::bigint[])"
LATER: Final = """
SELECT extract(epoch FROM not_before - clock_timestamp())::float8 FROM batch_item
WHERE batch_id = $1 AND status = 1 AND NOT alone AND coalesce(not_before, '-infinity') > '-infinity'
ORDER BY coalesce(not_before, '-infinity') LIMIT 1
"""

STARTED: Final = """
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::uuid[], $4::boolean[]) AS u (index, run_id, light)
), flying AS (
    INSERT INTO batch_run (run_id, batch_id, index, light) SELECT run_id, $1, index, light FROM u
), moved AS (
    UPDATE batch_item i
    SET status = 2, attempts = i.attempts + 1, run_id = CASE WHEN NOT u.light THEN u.run_id END,
        not_before = NULL, failure = NULL, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
)
INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 2, count(*) FROM u
ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
"""

SKIPPED: Final = """
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::text[]) AS u (index, failure)
), moved AS (
    UPDATE batch_item i SET status = 6, failure = u.failure::jsonb, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
), grouped AS (
    INSERT INTO batch_error AS r (batch_id, reason, n, example_message, example_indexes)
    SELECT $1, failure::jsonb ->> 'reason', count(*), min(failure::jsonb ->> 'message'),
           (array_agg(index ORDER BY index))[:10]
    FROM u GROUP BY failure::jsonb ->> 'reason'
    ON CONFLICT (batch_id, reason) DO UPDATE
    SET n = r.n + excluded.n, example_indexes = (r.example_indexes || excluded.example_indexes)[:10]
)
INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 6, count(*) FROM u
ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
"""

CLEAR: Final = """
WITH u AS MATERIALIZED (
    SELECT index FROM batch_item WHERE batch_id = $1 AND status = 1 ORDER BY index LIMIT $2
), moved AS (
    UPDATE batch_item i SET status = 13, not_before = NULL, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
), counted AS (
    INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 13, count(*) FROM u
    ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
)
SELECT count(*) FROM u
"""
CLEARED_AT_ONCE: Final = 5000
