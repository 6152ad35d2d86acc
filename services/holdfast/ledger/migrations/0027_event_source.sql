-- phase: before
-- Events from elsewhere: those that a source received and that cannot become runs, and the changes of watched tables.
--
-- Published and stable, beside those of 0022: holdfast.watch_table and holdfast.unwatch_table.

-- The source that received an event; empty if a service staged it.
ALTER TABLE run_inbox ADD COLUMN source text NOT NULL DEFAULT '';
ALTER TABLE run_inbox_refused ADD COLUMN source text NOT NULL DEFAULT '';
CREATE UNIQUE INDEX run_inbox_refused_received ON run_inbox_refused (tenant, source, idempotency_key)
WHERE source <> '';

-- Stages the start of a run for a change of a row, in the transaction that changes it. Its arguments are those of
-- the trigger: intent, tenant, name of the table, columns of the key and columns to tell of, as JSON.
CREATE FUNCTION stage_change() RETURNS trigger
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
    PERFORM enqueue_run(
        intent => TG_ARGV[0], payload => event, idempotency_key => 'change/' || gen_random_uuid(),
        ordering_key => lane, tenant => TG_ARGV[1]);
    RETURN NULL;
END $$;

-- Checks what watch_table is given, and returns the columns of the key: those named, or the primary key's.
CREATE FUNCTION check_watch(
    target regclass, intent text, key_columns text[], columns text[], operations text[], tenant text
) RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
DECLARE
    keys text[] := key_columns;
    missing text;
BEGIN
    IF EXISTS (SELECT FROM outbox_only) THEN
        RAISE EXCEPTION 'No Invoker serves this database: only the outbox is installed here.'
            USING ERRCODE = 'HF004', HINT = 'Only tables in the ledger''s database can be watched.';
    END IF;
    PERFORM check_text('intent', intent, 1), check_text('tenant', tenant, 1);
    IF intent !~ '^[A-Za-z0-9_./-]+$' THEN
        PERFORM refuse_argument('intent', 'must be letters, digits, ''_'', ''-'', ''.'' or ''/''');
    ELSIF target IS NULL THEN
        PERFORM refuse_argument('target', 'must be a table');
    ELSIF cardinality(columns) = 0 THEN
        PERFORM refuse_argument('columns', 'must name a column; leave it out to tell of all');
    ELSIF cardinality(operations) = 0 OR NOT operations <@ '{INSERT,UPDATE,DELETE}'::text[]
          OR operations IS NULL THEN
        PERFORM refuse_argument('operations', 'must be some of INSERT, UPDATE and DELETE');
    END IF;
    IF keys IS NULL THEN
        SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)) INTO keys
        FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = target AND i.indisprimary;
    END IF;
    IF coalesce(cardinality(keys), 0) = 0 THEN
        PERFORM refuse_argument('key_columns', 'must be given: the table has no primary key');
    END IF;
    SELECT name INTO missing FROM unnest(keys || columns) AS c (name)
    WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND a.attname = name
                      AND a.attnum > 0 AND NOT a.attisdropped);
    IF FOUND THEN
        PERFORM refuse_argument(
            CASE WHEN missing = ANY (keys) THEN 'key_columns' ELSE 'columns' END,
            format('names %s, and the table has no such column', coalesce(quote_ident(missing), 'NULL')));
    END IF;
    RETURN keys;
END $$;

-- Makes each change of a table's rows an event for an intent, in the transaction that changes them. Changes of one
-- key become runs in the order in which they commit; an UPDATE that changes none of the columns makes none. Repeatable:
-- called again for the same intent it replaces what was declared. Whoever calls it owns the table.
CREATE FUNCTION watch_table(
    target regclass,
    intent text,
    key_columns text[] DEFAULT NULL,
    columns text[] DEFAULT NULL,
    operations text[] DEFAULT '{INSERT,UPDATE,DELETE}',
    tenant text DEFAULT 'default'
) RETURNS void
LANGUAGE plpgsql SET search_path = holdfast, pg_temp AS $$
DECLARE
    keys text[] := check_watch(target, watch_table.intent, key_columns, columns, operations, watch_table.tenant);
    name text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target);
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER %I AFTER %s ON %s FOR EACH ROW EXECUTE FUNCTION holdfast.stage_change(%L, %L, %L, %L, %L)',
        'holdfast_watch_' || md5(watch_table.intent), array_to_string(operations, ' OR '), name,
        watch_table.intent, watch_table.tenant, name, to_jsonb(keys), coalesce(to_jsonb(columns), 'null'));
END $$;

-- Takes back what watch_table declared. Repeatable.
CREATE FUNCTION unwatch_table(target regclass, intent text) RETURNS void
LANGUAGE plpgsql SET search_path = holdfast, pg_temp AS $$
BEGIN
    EXECUTE (SELECT format('DROP TRIGGER IF EXISTS %I ON %I.%I', 'holdfast_watch_' || md5(unwatch_table.intent),
                           n.nspname, c.relname)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target);
END $$;

REVOKE ALL ON FUNCTION
    stage_change(),
    check_watch(regclass, text, text[], text[], text[], text),
    watch_table(regclass, text, text[], text[], text[], text),
    unwatch_table(regclass, text)
FROM PUBLIC;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_service', 'EXECUTE', 'FUNCTION stage_change()'),
    ('holdfast_service', 'EXECUTE', 'FUNCTION check_watch(regclass, text, text[], text[], text[], text)'),
    ('holdfast_service', 'EXECUTE', 'FUNCTION watch_table(regclass, text, text[], text[], text[], text)'),
    ('holdfast_service', 'EXECUTE', 'FUNCTION unwatch_table(regclass, text)'),
    ('holdfast_invoker', 'USAGE', 'SEQUENCE run_inbox_seq_seq');
SELECT grant_roles();
