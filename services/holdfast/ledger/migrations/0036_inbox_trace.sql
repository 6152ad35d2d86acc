-- phase: before
-- A service that stages the start of a run may say in which trace, as it may of an effect.

ALTER TABLE run_inbox ADD COLUMN traceparent text NOT NULL DEFAULT '';
ALTER TABLE run_inbox_refused ADD COLUMN traceparent text NOT NULL DEFAULT '';

-- An argument more is another function: the one before would leave calls by name undecided.
DROP FUNCTION enqueue_run(text, jsonb, text, text, text, text, integer, jsonb, text, timestamptz);

-- Stages the start of a run: it exists exactly if the caller's transaction commits, and becomes a run soon after.
-- Events of one ordering key become runs in the order in which their transactions commit. A key used twice makes
-- one run. Returns the event's number.
CREATE FUNCTION enqueue_run(
    intent text,
    payload jsonb,
    idempotency_key text,
    ordering_key text DEFAULT '',
    tenant text DEFAULT 'default',
    caller_user text DEFAULT '',
    priority integer DEFAULT 0,
    labels jsonb DEFAULT '{}',
    correlation_id text DEFAULT '',
    not_before timestamptz DEFAULT NULL,
    traceparent text DEFAULT ''
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
#variable_conflict use_column
DECLARE
    number bigint;
BEGIN
    IF EXISTS (SELECT FROM outbox_only) THEN
        RAISE EXCEPTION 'No Invoker serves this database: only the outbox is installed here.'
            USING ERRCODE = 'HF004', HINT = 'Call enqueue_run on the ledger''s database.';
    END IF;
    PERFORM check_text('intent', enqueue_run.intent, 1),
            check_text('idempotency_key', enqueue_run.idempotency_key, 1),
            check_text('ordering_key', enqueue_run.ordering_key, 0),
            check_text('tenant', enqueue_run.tenant, 1),
            check_text('caller_user', enqueue_run.caller_user, 0),
            check_text('correlation_id', enqueue_run.correlation_id, 0),
            check_text('traceparent', enqueue_run.traceparent, 0);
    IF jsonb_typeof(enqueue_run.payload) IS DISTINCT FROM 'object' THEN
        PERFORM refuse_argument('payload', 'must be a JSON object');
    ELSIF octet_length(enqueue_run.payload::text) > 1048576 THEN
        PERFORM refuse_argument('payload', 'must be at most 1 MiB long');
    ELSIF coalesce(enqueue_run.priority, -1) NOT BETWEEN 0 AND 9 THEN
        PERFORM refuse_argument('priority', 'must be between 0 and 9');
    ELSIF jsonb_typeof(enqueue_run.labels) IS DISTINCT FROM 'object'
          OR octet_length(enqueue_run.labels::text) > 16384 THEN
        PERFORM refuse_argument('labels', 'must be a JSON object of at most 16 KiB');
    END IF;
    -- A statement of its own, before the number is taken: the order of numbers is the order of commits.
    IF enqueue_run.ordering_key <> '' THEN
        INSERT INTO run_inbox_lane AS lane (tenant, ordering_key)
        VALUES (enqueue_run.tenant, enqueue_run.ordering_key)
        ON CONFLICT (tenant, ordering_key) DO UPDATE SET ordering_key = lane.ordering_key;
    END IF;
    -- A hint, and only to an Invoker that rests: NOTIFY takes a lock over the whole database at COMMIT.
    IF NOT EXISTS (SELECT FROM run_inbox) THEN
        PERFORM pg_notify('holdfast_inbox', '');
    END IF;
    INSERT INTO run_inbox (tenant, intent, payload, idempotency_key, ordering_key, caller_user, priority, labels,
                           correlation_id, not_before, traceparent)
    VALUES (enqueue_run.tenant, enqueue_run.intent, enqueue_run.payload::text, enqueue_run.idempotency_key,
            enqueue_run.ordering_key, enqueue_run.caller_user, enqueue_run.priority, enqueue_run.labels,
            enqueue_run.correlation_id, enqueue_run.not_before, enqueue_run.traceparent)
    RETURNING seq INTO number;
    RETURN number;
END $$;

REVOKE ALL ON FUNCTION enqueue_run(text, jsonb, text, text, text, text, integer, jsonb, text, timestamptz, text) FROM PUBLIC;

UPDATE role_grant SET object = 'FUNCTION enqueue_run(text, jsonb, text, text, text, text, integer, jsonb, text, timestamptz, text)'
WHERE object = 'FUNCTION enqueue_run(text, jsonb, text, text, text, text, integer, jsonb, text, timestamptz)';
SELECT grant_roles();
