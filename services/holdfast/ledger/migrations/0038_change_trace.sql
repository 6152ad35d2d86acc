-- phase: before
-- A change of a watched table goes on in the trace that its session, or its transaction, says it is in.

-- Stages the start of a run for a change of a row, in the transaction that changes it. Its arguments are those of
-- the trigger: intent, tenant, name of the table, columns of the key and columns to tell of, as JSON.
CREATE OR REPLACE FUNCTION stage_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
DECLARE
    told jsonb := TG_ARGV[4]::jsonb;
    before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    key jsonb;
    lane text;
    event jsonb;
BEGIN
    SELECT jsonb_object_agg(name, coalesce(after, before) -> name),
           TG_ARGV[2] || '/' || string_agg(coalesce(coalesce(after, before) ->> name, ''), ',' ORDER BY place)
    INTO key, lane
    FROM jsonb_array_elements_text(TG_ARGV[3]::jsonb) WITH ORDINALITY AS k (name, place);
    IF jsonb_typeof(told) = 'array' THEN
        SELECT jsonb_object_agg(name, before -> name) FILTER (WHERE before IS NOT NULL),
               jsonb_object_agg(name, after -> name) FILTER (WHERE after IS NOT NULL)
        INTO before, after
        FROM jsonb_array_elements_text(told) AS c (name);
    END IF;
    IF TG_OP = 'UPDATE' AND before = after THEN
        RETURN NULL;
    END IF;
    IF octet_length(lane) > 255 THEN
        lane := 'change/' || md5(lane);
    END IF;
    event := jsonb_build_object('table', TG_ARGV[2], 'operation', TG_OP, 'key', key);
    -- A row too large for a payload must not fail the write of whoever owns it.
    IF coalesce(octet_length(before::text), 0) + coalesce(octet_length(after::text), 0) < 1000000 THEN
        event := event || jsonb_build_object('old', before, 'new', after);
    ELSE
        event := event || '{"truncated": true}';
    END IF;
    -- Nor must a setting that names no trace; one that is unset is NULL, or empty once it was set and is no more.
    PERFORM enqueue_run(
        intent => TG_ARGV[0], payload => event, idempotency_key => 'change/' || gen_random_uuid(),
        ordering_key => lane, tenant => TG_ARGV[1],
        traceparent => coalesce(substring(current_setting('holdfast.traceparent', true)
                                          FROM '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'), ''));
    RETURN NULL;
END $$;
