-- phase: before
-- Light items: many are executed by one run, a chunk, whose outcome says of each how it ended. And the next
-- items of a batch are found without passing over those that wait for their next try.

-- To be executed by a chunk of its own: one that it shared was ended by it, or by another of its items.
ALTER TABLE batch_item ADD COLUMN alone boolean NOT NULL DEFAULT false;

-- Tries up to the last time that someone had it tried again: they count no longer against `max_attempts`.
ALTER TABLE batch_item ADD COLUMN forgiven integer NOT NULL DEFAULT 0;

-- Never tried ('-infinity'), then by the time of the next try.
CREATE INDEX batch_item_due ON batch_item (batch_id, (coalesce(not_before, '-infinity')), index)
WHERE status = 1 AND NOT alone;
CREATE INDEX batch_item_alone ON batch_item (batch_id, status, index) WHERE alone;

ALTER TABLE batch_run ADD COLUMN light boolean NOT NULL DEFAULT false;
ALTER TABLE batch_run DROP CONSTRAINT batch_run_pkey;
ALTER TABLE batch_run ADD PRIMARY KEY (run_id, index);

-- Moves the items on whose runs have just ended. What becomes of an item is `domain.batch.after_run`, and of
-- a light one `domain.batch.after_light`.
CREATE OR REPLACE FUNCTION batch_runs_ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM batch_run WHERE run_id = ANY(ARRAY(SELECT e.run_id FROM newly e))) THEN
        RETURN NULL;
    END IF;
    WITH gone AS (
        DELETE FROM batch_run WHERE run_id = ANY(ARRAY(SELECT e.run_id FROM newly e)) RETURNING *
    ), chunk AS MATERIALIZED (
        SELECT e.run_id, (convert_from(e.result, 'UTF8')::json #>> '{}')::json AS items FROM newly e
        WHERE e.status = 5 AND e.run_id = ANY(ARRAY(SELECT g.run_id FROM gone g WHERE g.light))
    ), said AS MATERIALIZED (
        SELECT c.run_id, (o ->> 'index')::bigint AS index, o FROM chunk c CROSS JOIN json_array_elements(c.items) AS o
    ), sized AS MATERIALIZED (
        SELECT run_id, count(*) AS n FROM gone WHERE light GROUP BY run_id
    ), raw AS MATERIALIZED (
        SELECT g.batch_id, g.index, g.light, b.skip_staging, b.max_attempts, b.status AS batch_status,
               b.initial_backoff_ms, b.max_backoff_ms, b.label_field, b.confidence_field, i.attempts - i.forgiven AS attempts, i.alone,
               CASE WHEN NOT g.light THEN e.status WHEN e.status = 5 THEN coalesce((o ->> 'status')::smallint, 0)
                    ELSE e.status END AS ended,
               g.light AND e.status NOT IN (5, 8)
                   AND (z.n > 1 OR coalesce(e.exhausted, 0) = 1) AS innocent,
               g.light AND (e.status <> 5 OR coalesce((o ->> 'status')::smallint, 0) = 0) AS unheard,
               g.light AND z.n > 1 AND e.status NOT IN (5, 8) AND coalesce(e.exhausted, 0) <> 1 AS suspect,
               CASE WHEN g.light THEN convert_to(o ->> 'result', 'UTF8') ELSE e.result END AS result,
               CASE WHEN o IS NOT NULL THEN (o -> 'failure')::text::jsonb ELSE e.failure END AS failure,
               CASE WHEN o IS NOT NULL THEN coalesce((o ->> 'exhausted')::smallint, 0) ELSE e.exhausted END
                   AS exhausted,
               coalesce((o ->> 'alone')::boolean, false) AS too_large,
               CASE WHEN g.light THEN coalesce((o ->> 'steps')::bigint, 0) ELSE s.steps END AS steps,
               CASE WHEN g.light THEN coalesce((o ->> 'tools')::bigint, 0) ELSE s.tools END AS tools,
               CASE WHEN g.light THEN coalesce((o ->> 'tokens')::bigint, 0) ELSE s.tokens END AS tokens,
               CASE WHEN g.light THEN coalesce((o ->> 'context')::bigint, 0) ELSE s.context END AS context,
               CASE WHEN g.light THEN coalesce((o ->> 'ms')::float8, 0) / 1000
                    ELSE extract(epoch FROM s.end_time - coalesce(s.start_time, s.create_time))::float8 END
                   AS seconds
        FROM gone g
        CROSS JOIN LATERAL (SELECT * FROM newly n WHERE n.run_id = g.run_id LIMIT 1) e
        LEFT JOIN said t ON t.run_id = g.run_id AND t.index = g.index
        LEFT JOIN sized z ON z.run_id = g.run_id
        JOIN run_state s ON s.run_id = g.run_id
        JOIN batch b ON b.batch_id = g.batch_id
        JOIN batch_item i ON i.batch_id = g.batch_id AND i.index = g.index
    ), fate AS MATERIALIZED (
        SELECT r.batch_id, r.index, r.result, r.steps, r.tools, r.tokens, r.context,
               CASE WHEN r.ended = 5 THEN CASE WHEN r.skip_staging THEN 12 ELSE 3 END
                    WHEN r.batch_status = 11 THEN 13
                    WHEN r.light AND (r.ended = 0 OR r.innocent) THEN 1
                    WHEN r.ended = 10 AND r.attempts < r.max_attempts THEN 1
                    ELSE 6 END::smallint AS becomes,
               r.light AND (r.ended = 0 OR r.innocent) AS uncounted,
               r.suspect OR r.too_large OR (r.alone AND r.unheard) AS alone,
               coalesce(r.failure, jsonb_build_object(
                   'reason', CASE WHEN r.ended = 6 THEN 'BUDGET_EXCEEDED' ELSE 'RUN_FAILED' END,
                   'message', CASE r.exhausted WHEN 1 THEN 'The run was out of time.'
                                               WHEN 0 THEN 'The run did not succeed.'
                                               ELSE 'The run was out of its budget.' END)) AS failure,
               CASE WHEN r.ended = 5 AND r.label_field <> ''
                    THEN output_field(r.result, r.label_field) END AS label,
               CASE WHEN r.ended = 5 AND r.confidence_field <> ''
                    THEN output_number(r.result, r.confidence_field) END AS confidence,
               random() * least(r.max_backoff_ms, r.initial_backoff_ms * 2 ^ least(r.attempts - 1, 30))
                   / 1000.0 AS wait_s,
               width_bucket(r.seconds,
                            ARRAY[0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48,
                                  40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 2621.44, 5242.88]::float8[])
                   - 1 AS bucket
        FROM raw r
    ), moved AS (
        UPDATE batch_item i
        SET status = f.becomes, attempts = i.attempts - f.uncounted::integer, alone = f.alone,
            steps = i.steps + f.steps, tools = i.tools + f.tools,
            tokens = i.tokens + f.tokens, context = greatest(i.context, f.context),
            label = coalesce(f.label, ''), confidence = f.confidence,
            failure = CASE WHEN f.becomes IN (1, 6) AND NOT f.uncounted THEN f.failure END,
            not_before = CASE WHEN f.becomes = 1 AND NOT f.uncounted
                              THEN clock_timestamp() + make_interval(secs => f.wait_s) END,
            update_time = clock_timestamp()
        FROM fate f WHERE i.batch_id = f.batch_id AND i.index = f.index
    ), staged AS (
        INSERT INTO batch_output (batch_id, index, output)
        SELECT batch_id, index, coalesce(result, 'null') FROM fate WHERE becomes IN (3, 12)
        ON CONFLICT (batch_id, index) DO UPDATE SET output = excluded.output
    ), left_running AS (
        UPDATE batch_count c SET n = c.n - d.n
        FROM (SELECT batch_id, count(*) AS n FROM fate GROUP BY batch_id) d
        WHERE c.batch_id = d.batch_id AND c.status = 2
    ), counted AS (
        INSERT INTO batch_count AS c (batch_id, status, n)
        SELECT batch_id, becomes, count(*) FROM fate GROUP BY batch_id, becomes
        ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
    ), spent AS (
        INSERT INTO batch_total AS t (batch_id, steps, tools, tokens, context)
        SELECT batch_id, sum(steps), sum(tools), sum(tokens), max(context) FROM fate GROUP BY batch_id
        ON CONFLICT (batch_id) DO UPDATE
        SET steps = t.steps + excluded.steps, tools = t.tools + excluded.tools,
            tokens = t.tokens + excluded.tokens, context = greatest(t.context, excluded.context)
    ), paced AS (
        INSERT INTO batch_pace AS p (batch_id, slot, at, ended, tokens)
        SELECT f.batch_id, m.at % 16, m.at, count(*) FILTER (WHERE f.becomes <> 1), sum(f.tokens)
        FROM fate f CROSS JOIN (SELECT floor(extract(epoch FROM clock_timestamp()) / 5)::bigint AS at) m
        GROUP BY f.batch_id, m.at
        ON CONFLICT (batch_id, slot) DO UPDATE
        SET at = excluded.at,
            ended = CASE WHEN p.at = excluded.at THEN p.ended ELSE 0 END + excluded.ended,
            tokens = CASE WHEN p.at = excluded.at THEN p.tokens ELSE 0 END + excluded.tokens
    ), timed AS (
        INSERT INTO batch_latency AS l (batch_id, bucket, n)
        SELECT batch_id, greatest(0, bucket), count(*) FROM fate WHERE becomes <> 1
        GROUP BY batch_id, greatest(0, bucket)
        ON CONFLICT (batch_id, bucket) DO UPDATE SET n = l.n + excluded.n
    )
    INSERT INTO batch_error AS r (batch_id, reason, n, example_message, example_indexes)
    SELECT batch_id, failure ->> 'reason', count(*), left(min(failure ->> 'message'), 1000),
           (array_agg(index ORDER BY index))[:10]
    FROM fate WHERE becomes = 6 GROUP BY batch_id, failure ->> 'reason'
    ON CONFLICT (batch_id, reason) DO UPDATE
    SET n = r.n + excluded.n,
        example_message = CASE r.n WHEN 0 THEN excluded.example_message ELSE r.example_message END,
        example_indexes = (CASE r.n WHEN 0 THEN '{}' ELSE r.example_indexes END
                           || excluded.example_indexes)[:10];
    RETURN NULL;
END $$;
