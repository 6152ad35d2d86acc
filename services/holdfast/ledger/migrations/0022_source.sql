-- phase: before
-- Sources: functions that a service in any language calls in its own transaction, and what they fill.
--
-- Published and stable: holdfast_outbox.stage and holdfast.enqueue_run. Arguments are only ever added, with
-- defaults, so call them by name. Their SQLSTATEs: HF001 no such destination, HF002 the idempotency key stands
-- for something else, HF003 an argument is not as it must be, HF004 not in this database.

-- Whoever calls them is a member of this role, and needs nothing else of ours.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_service') THEN
        CREATE ROLE holdfast_service NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'the role holdfast_service cannot be created here';
END $$;

-- Events on their way to becoming runs. `seq` of one ordering key is taken under the lock of its lane.
CREATE TABLE run_inbox (
    tenant              text NOT NULL,
    seq                 bigint GENERATED ALWAYS AS IDENTITY,
    intent              text NOT NULL,
    payload             text NOT NULL,
    payload_bytes       integer NOT NULL GENERATED ALWAYS AS (octet_length(payload)) STORED,
    idempotency_key     text NOT NULL,
    ordering_key        text NOT NULL,
    caller_user         text NOT NULL,
    priority            integer NOT NULL,
    labels              jsonb NOT NULL,
    correlation_id      text NOT NULL,
    not_before          timestamptz,
    create_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX run_inbox_ordered ON run_inbox (tenant, ordering_key) WHERE ordering_key <> '';

-- An ordering key with events in the inbox, and its lock. Gone when none is left.
CREATE TABLE run_inbox_lane (
    tenant              text NOT NULL,
    ordering_key        text NOT NULL,
    PRIMARY KEY (tenant, ordering_key)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

-- Events that will never become runs as they are: for a person to look at, correct the cause of, and send again.
CREATE TABLE run_inbox_refused (
    LIKE run_inbox INCLUDING DEFAULTS,
    reason              text NOT NULL,
    message             text NOT NULL,
    field               text NOT NULL,
    refuse_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, seq)
);

-- Holds a row where `holdfast outbox install` made the schema in another service's database: no Invoker there.
CREATE TABLE outbox_only (
    sole                boolean PRIMARY KEY DEFAULT true CHECK (sole)
);

CREATE FUNCTION refuse_argument(name text, problem text) RETURNS void
LANGUAGE plpgsql SET search_path = holdfast, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% %', name, problem USING ERRCODE = 'HF003', COLUMN = name;
END $$;

CREATE FUNCTION check_text(name text, value text, shortest integer) RETURNS void
LANGUAGE plpgsql SET search_path = holdfast, pg_temp AS $$
BEGIN
    IF value IS NULL OR octet_length(value) NOT BETWEEN shortest AND 255 THEN
        PERFORM refuse_argument(name, format('must be %s to 255 bytes long', shortest));
    END IF;
END $$;

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
    not_before timestamptz DEFAULT NULL
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
            check_text('correlation_id', enqueue_run.correlation_id, 0);
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
                           correlation_id, not_before)
    VALUES (enqueue_run.tenant, enqueue_run.intent, enqueue_run.payload::text, enqueue_run.idempotency_key,
            enqueue_run.ordering_key, enqueue_run.caller_user, enqueue_run.priority, enqueue_run.labels,
            enqueue_run.correlation_id, enqueue_run.not_before)
    RETURNING seq INTO number;
    RETURN number;
END $$;

CREATE SCHEMA IF NOT EXISTS holdfast_outbox;

-- Stages an effect: it is delivered exactly if the caller's transaction commits. Effects of one ordering key are
-- delivered in the order in which their transactions commit. Repeatable: the same key for the same intent returns
-- the effect it stands for. Returns the effect's id. What a run sends is the same, by `ledger/outbox.py`.
CREATE FUNCTION holdfast_outbox.stage(
    destination text,
    payload jsonb,
    idempotency_key text,
    ordering_key text DEFAULT '',
    tenant text DEFAULT 'default',
    not_before timestamptz DEFAULT NULL,
    traceparent text DEFAULT ''
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
#variable_conflict use_column
DECLARE
    body bytea;
    print bytea := '';
    part bytea;
    target bigint;
    id uuid := gen_random_uuid();
    known effect_key%ROWTYPE;
    front uuid;
    number bigint;
    moment timestamptz;
BEGIN
    PERFORM check_text('destination', stage.destination, 1),
            check_text('idempotency_key', stage.idempotency_key, 1),
            check_text('ordering_key', stage.ordering_key, 0),
            check_text('tenant', stage.tenant, 1),
            check_text('traceparent', stage.traceparent, 0);
    IF stage.payload IS NULL THEN
        PERFORM refuse_argument('payload', 'must be given');
    END IF;
    body := convert_to(stage.payload::text, 'UTF8');
    IF octet_length(body) > 1048576 THEN
        PERFORM refuse_argument('payload', 'must be at most 1 MiB long');
    END IF;
    SELECT d.destination_id INTO target FROM destination d
    WHERE d.tenant = stage.tenant AND d.name = stage.destination;
    IF target IS NULL THEN
        RAISE EXCEPTION 'There is no destination %; make it with PutDestination.', stage.destination
            USING ERRCODE = 'HF001';
    END IF;
    FOREACH part IN ARRAY ARRAY[convert_to(stage.destination, 'UTF8'), convert_to(stage.ordering_key, 'UTF8'), body]
    LOOP
        print := print || int8send(octet_length(part)) || part;
    END LOOP;
    print := sha256(print);

    INSERT INTO effect_key (tenant, idempotency_key, effect_id, fingerprint)
    VALUES (stage.tenant, stage.idempotency_key, id, print)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        -- A statement of its own, for the one that took the key may have ended meanwhile.
        SELECT * INTO known FROM effect_key k
        WHERE k.tenant = stage.tenant AND k.idempotency_key = stage.idempotency_key;
        IF NOT FOUND THEN  -- a transaction whose snapshot is older than the key
            RAISE EXCEPTION 'Another transaction took the key at the same moment.'
                USING ERRCODE = 'serialization_failure';
        ELSIF known.fingerprint <> print THEN
            RAISE EXCEPTION 'The idempotency key % stands for another destination, order or payload.',
                stage.idempotency_key USING ERRCODE = 'HF002';
        END IF;
        RETURN known.effect_id;
    END IF;

    IF stage.ordering_key <> '' THEN
        -- Before the number is taken, so that the order of numbers is the order of commits.
        INSERT INTO effect_lane AS lane (destination_id, ordering_key, head)
        VALUES (target, stage.ordering_key, id)
        ON CONFLICT (destination_id, ordering_key) DO UPDATE SET head = lane.head
        RETURNING head INTO front;
    ELSE
        front := id;
    END IF;
    moment := greatest(stage.not_before, statement_timestamp());
    INSERT INTO effect (effect_id, tenant, destination_id, step, idempotency_key, ordering_key, traceparent, body,
                        next_attempt_time)
    VALUES (id, stage.tenant, target, '', stage.idempotency_key, stage.ordering_key, stage.traceparent, body,
            CASE WHEN front = id THEN moment END)
    RETURNING seq INTO number;
    IF front = id THEN
        INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key)
        VALUES (target, moment, number, id, stage.ordering_key);
    ELSE
        INSERT INTO effect_waiting (destination_id, ordering_key, seq, effect_id, not_before)
        VALUES (target, stage.ordering_key, number, id, stage.not_before);
    END IF;
    RETURN id;
END $$;

REVOKE ALL ON FUNCTION
    refuse_argument(text, text),
    check_text(text, text, integer),
    enqueue_run(text, jsonb, text, text, text, text, integer, jsonb, text, timestamptz),
    holdfast_outbox.stage(text, jsonb, text, text, text, timestamptz, text)
FROM PUBLIC;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_service', 'USAGE', 'SCHEMA holdfast, holdfast_outbox'),
    ('holdfast_service', 'EXECUTE',
     'FUNCTION enqueue_run(text, jsonb, text, text, text, text, integer, jsonb, text, timestamptz)'),
    ('holdfast_service', 'EXECUTE',
     'FUNCTION holdfast_outbox.stage(text, jsonb, text, text, text, timestamptz, text)'),
    ('holdfast_invoker', 'SELECT, INSERT, DELETE', 'run_inbox, run_inbox_refused'),
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE', 'run_inbox_lane');
SELECT grant_roles();
