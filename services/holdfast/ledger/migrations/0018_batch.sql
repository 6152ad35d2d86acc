-- phase: before
-- Batches: many items over one intent, each a run, counted where they move.
--
-- An item moves on in the statement that writes its run's outcome, whoever writes it: a trigger on run_outcome.
-- All that ends runs, and every verb that moves items, holds the tenant's row, which is the mutex of the
-- tenant's batches too; so counters are rows that a group of ends updates once. Lock order: tenant, batch,
-- what belongs to it.

CREATE TABLE batch (
    batch_id            uuid PRIMARY KEY,
    seq                 bigint GENERATED ALWAYS AS IDENTITY,
    tenant              text NOT NULL,
    intent              text NOT NULL,
    idempotency_key     text NOT NULL,
    fingerprint         bytea NOT NULL,
    -- The BatchSpec as it was accepted; what changes later is in columns.
    spec                bytea NOT NULL,
    labels              jsonb,
    schedule            text NOT NULL DEFAULT '',
    -- The numbers of holdfast.v1.BatchStatus.
    status              smallint NOT NULL DEFAULT 1,
    resume_status       smallint NOT NULL DEFAULT 0,
    reason              text NOT NULL DEFAULT '',
    uploaded            bigint NOT NULL DEFAULT 0,
    skip_staging        boolean NOT NULL,
    in_order            boolean NOT NULL,
    start_when_uploaded boolean NOT NULL,
    max_parallelism     integer NOT NULL,
    priority            smallint NOT NULL,
    max_attempts        integer NOT NULL,
    initial_backoff_ms  bigint NOT NULL,
    max_backoff_ms      bigint NOT NULL,
    tolerated_items     bigint NOT NULL,
    tolerated_share     double precision NOT NULL,
    -- Failures and ends up to the last resumption: they no longer count against the tolerance.
    forgiven_skipped    bigint NOT NULL DEFAULT 0,
    forgiven_ended      bigint NOT NULL DEFAULT 0,
    label_field         text NOT NULL,
    confidence_field    text NOT NULL,
    create_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    start_time          timestamptz,
    end_time            timestamptz,
    UNIQUE (tenant, idempotency_key)
) WITH (fillfactor = 70);
CREATE INDEX batch_newest ON batch (tenant, seq);

-- Those that something is to be done for.
CREATE TABLE batch_active (
    batch_id            uuid PRIMARY KEY,
    tenant              text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- What was sent, as JSON; never changes.
CREATE TABLE batch_input (
    batch_id            uuid NOT NULL,
    index               bigint NOT NULL,
    key                 text NOT NULL,
    payload             bytea NOT NULL,
    current             bytea,
    PRIMARY KEY (batch_id, index)
);
CREATE UNIQUE INDEX batch_input_key ON batch_input (batch_id, key);

CREATE TABLE batch_item (
    batch_id            uuid NOT NULL,
    index               bigint NOT NULL,
    -- The numbers of holdfast.v1.BatchItemStatus.
    status              smallint NOT NULL DEFAULT 1,
    attempts            integer NOT NULL DEFAULT 0,
    run_id              uuid,
    not_before          timestamptz,
    label               text NOT NULL DEFAULT '',
    confidence          double precision,
    steps               bigint NOT NULL DEFAULT 0,
    tools               bigint NOT NULL DEFAULT 0,
    tokens              bigint NOT NULL DEFAULT 0,
    context             bigint NOT NULL DEFAULT 0,
    failure             jsonb,
    update_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (batch_id, index)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX batch_item_status ON batch_item (batch_id, status, index);

-- What agents returned, as JSON: staging.
CREATE TABLE batch_output (
    batch_id            uuid NOT NULL,
    index               bigint NOT NULL,
    output              bytea NOT NULL,
    PRIMARY KEY (batch_id, index)
);

-- The runs of items in flight.
CREATE TABLE batch_run (
    run_id              uuid PRIMARY KEY,
    batch_id            uuid NOT NULL,
    index               bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX batch_run_batch ON batch_run (batch_id);

-- Progress, which is read and never counted.
CREATE TABLE batch_count (
    batch_id            uuid NOT NULL,
    status              smallint NOT NULL,
    n                   bigint NOT NULL CHECK (n >= 0),
    PRIMARY KEY (batch_id, status)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);

CREATE TABLE batch_total (
    batch_id            uuid PRIMARY KEY,
    steps               bigint NOT NULL DEFAULT 0,
    tools               bigint NOT NULL DEFAULT 0,
    tokens              bigint NOT NULL DEFAULT 0,
    context             bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- A ring of 16 slots of five seconds each: what ended when.
CREATE TABLE batch_pace (
    batch_id            uuid NOT NULL,
    slot                smallint NOT NULL,
    at                  bigint NOT NULL,
    ended               bigint NOT NULL,
    tokens              bigint NOT NULL,
    PRIMARY KEY (batch_id, slot)
) WITH (fillfactor = 50);

-- Bucket n holds what took at most 10 ms times 2 to the n; 20 is the rest.
CREATE TABLE batch_latency (
    batch_id            uuid NOT NULL,
    bucket              smallint NOT NULL,
    n                   bigint NOT NULL,
    PRIMARY KEY (batch_id, bucket)
) WITH (fillfactor = 50);

CREATE TABLE batch_error (
    batch_id            uuid NOT NULL,
    reason              text NOT NULL,
    n                   bigint NOT NULL,
    example_message     text NOT NULL,
    example_indexes     bigint[] NOT NULL,
    PRIMARY KEY (batch_id, reason)
) WITH (fillfactor = 50);

-- A field of an output as text; NULL for what has none, or is not to be read as PostgreSQL's JSON.
CREATE FUNCTION output_field(output bytea, field text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN left(convert_from(output, 'UTF8')::json ->> field, 255);
EXCEPTION WHEN others THEN
    RETURN NULL;
END $$;

CREATE FUNCTION output_number(output bytea, field text) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (convert_from(output, 'UTF8')::json ->> field)::double precision;
EXCEPTION WHEN others THEN
    RETURN NULL;
END $$;

-- Moves the items on whose runs have just ended. What becomes of an item is `domain.batch.after_run`.
CREATE FUNCTION batch_runs_ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM batch_run WHERE run_id = ANY(ARRAY(SELECT e.run_id FROM newly e))) THEN
        RETURN NULL;
    END IF;
    WITH gone AS (
        DELETE FROM batch_run WHERE run_id = ANY(ARRAY(SELECT e.run_id FROM newly e)) RETURNING *
    ), fate AS MATERIALIZED (
        SELECT g.batch_id, g.index, e.result, s.steps, s.tools, s.tokens, s.context,
               CASE WHEN e.status = 5 THEN CASE WHEN b.skip_staging THEN 12 ELSE 3 END
                    WHEN b.status = 11 THEN 13
                    WHEN e.status = 10 AND i.attempts < b.max_attempts THEN 1
                    ELSE 6 END::smallint AS becomes,
               coalesce(e.failure, jsonb_build_object(
                   'reason', CASE WHEN e.status = 6 THEN 'BUDGET_EXCEEDED' ELSE 'RUN_FAILED' END,
                   'message', CASE e.exhausted WHEN 1 THEN 'The run was out of time.'
                                               WHEN 0 THEN 'The run did not succeed.'
                                               ELSE 'The run was out of its budget.' END)) AS failure,
               CASE WHEN e.status = 5 AND b.label_field <> ''
                    THEN output_field(e.result, b.label_field) END AS label,
               CASE WHEN e.status = 5 AND b.confidence_field <> ''
                    THEN output_number(e.result, b.confidence_field) END AS confidence,
               random() * least(b.max_backoff_ms, b.initial_backoff_ms * 2 ^ least(i.attempts - 1, 30))
                   / 1000.0 AS wait_s,
               width_bucket(extract(epoch FROM s.end_time - coalesce(s.start_time, s.create_time))::float8,
                            ARRAY[0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48,
                                  40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 2621.44, 5242.88]::float8[])
                   - 1 AS bucket
        FROM gone g
        CROSS JOIN LATERAL (SELECT * FROM newly n WHERE n.run_id = g.run_id LIMIT 1) e
        JOIN run_state s ON s.run_id = g.run_id
        JOIN batch b ON b.batch_id = g.batch_id
        JOIN batch_item i ON i.batch_id = g.batch_id AND i.index = g.index
    ), moved AS (
        UPDATE batch_item i
        SET status = f.becomes, steps = i.steps + f.steps, tools = i.tools + f.tools,
            tokens = i.tokens + f.tokens, context = greatest(i.context, f.context),
            label = coalesce(f.label, ''), confidence = f.confidence,
            failure = CASE WHEN f.becomes IN (1, 6) THEN f.failure END,
            not_before = CASE f.becomes WHEN 1 THEN clock_timestamp() + make_interval(secs => f.wait_s) END,
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
REVOKE ALL ON FUNCTION batch_runs_ended() FROM PUBLIC;

CREATE TRIGGER batch_runs_ended AFTER INSERT ON run_outcome
REFERENCING NEW TABLE AS newly FOR EACH STATEMENT EXECUTE FUNCTION batch_runs_ended();

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE',
     'batch, batch_active, batch_input, batch_item, batch_output, batch_run, batch_count, batch_total, batch_pace,
      batch_latency, batch_error');
SELECT grant_roles();
