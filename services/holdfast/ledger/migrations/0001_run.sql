-- phase: before
-- Runs: the envelope, where it stands, who holds it, what it recorded.
--
-- A run is spread over rows by how often they change: `run` never changes after admission,
-- `run_state` is narrow and changes with every commit (HOT: no index on what changes while it
-- runs), `run_outcome` is written once. Lock order, everywhere: tenant, tenant_pool, lane, lease,
-- run_state, outbox lane; within a table by primary key.

CREATE SEQUENCE run_seq;

CREATE TABLE tenant (
    tenant            text PRIMARY KEY,
    weight            integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),
    max_in_flight     integer NOT NULL DEFAULT 1000 CHECK (max_in_flight > 0),
    max_queued        integer NOT NULL DEFAULT 1000000 CHECK (max_queued >= 0),
    -- What a budget's missing limits become.
    deadline_ms       bigint NOT NULL DEFAULT 600000,
    max_steps         bigint NOT NULL DEFAULT 1000,
    max_tools         bigint NOT NULL DEFAULT 1000,
    max_tokens        bigint NOT NULL DEFAULT 1000000,
    max_context       bigint NOT NULL DEFAULT 128000,
    -- Equal to the tenant's leases, and to its runs in ready, blocked and delayed.
    in_flight         integer NOT NULL DEFAULT 0,
    queued            integer NOT NULL DEFAULT 0,
    create_time       timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- The ring: a tenant's turn in a pool. A pool is what a runner must serve to take a run: its
-- intent, and once it has started or is pinned also its agent version (`intent@version`).
CREATE SEQUENCE turn_seq;
CREATE TABLE tenant_pool (
    pool        text NOT NULL,
    tenant      text NOT NULL,
    turn        bigint NOT NULL DEFAULT nextval('turn_seq'),
    ready       integer NOT NULL DEFAULT 0,
    -- The tenant is at its cap in flight.
    capped      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (pool, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
CREATE INDEX tenant_pool_ring ON tenant_pool (pool, turn) WHERE ready > 0 AND NOT capped;
CREATE INDEX tenant_pool_tenant ON tenant_pool (tenant);

CREATE TABLE run (
    run_id            uuid PRIMARY KEY,
    seq               bigint NOT NULL,
    tenant            text NOT NULL,
    create_time       timestamptz NOT NULL,
    intent            text NOT NULL,
    shape             smallint NOT NULL,
    user_id           text NOT NULL,
    idempotency_key   text NOT NULL,
    correlation_id    text NOT NULL,
    session_id        text NOT NULL,
    ordering_key      text NOT NULL,
    priority          smallint NOT NULL,
    labels            jsonb,
    -- The InvokeRequest as it was accepted.
    envelope          bytea NOT NULL
);
CREATE INDEX run_newest ON run (tenant, create_time, seq);
CREATE INDEX run_correlation ON run (tenant, correlation_id, seq) WHERE correlation_id <> '';
CREATE INDEX run_session ON run (tenant, session_id, seq) WHERE session_id <> '';

CREATE TABLE run_state (
    run_id            uuid PRIMARY KEY,
    tenant            text NOT NULL,
    seq               bigint NOT NULL,
    -- The partition of its history: the day it was accepted.
    day               date NOT NULL,
    pool              text NOT NULL,
    rank              smallint NOT NULL,          -- minus the priority: lower goes first
    ordering_key      text NOT NULL,
    -- The numbers of holdfast.v1.RunStatus.
    status            smallint NOT NULL,
    epoch             bigint NOT NULL,
    attempt           integer NOT NULL,
    max_attempts      integer NOT NULL,
    last_commit       integer NOT NULL DEFAULT 0,
    last_position     integer NOT NULL DEFAULT 0,
    last_sequence     bigint NOT NULL DEFAULT 0,
    cancel_requested  boolean NOT NULL DEFAULT false,
    create_time       timestamptz NOT NULL,
    start_time        timestamptz,
    end_time          timestamptz,
    deadline_time     timestamptz NOT NULL,
    max_steps         bigint NOT NULL,
    max_tools         bigint NOT NULL,
    max_tokens        bigint NOT NULL,
    max_context       bigint NOT NULL,
    deadline_ms       bigint NOT NULL,
    steps             bigint NOT NULL DEFAULT 0,
    tools             bigint NOT NULL DEFAULT 0,
    tokens            bigint NOT NULL DEFAULT 0,
    context           bigint NOT NULL DEFAULT 0,
    agent_version     text NOT NULL DEFAULT '',
    cancel_reason     text,
    -- {reason, message, step, attempts} of the last attempt that failed.
    last_failure      jsonb
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX run_state_status ON run_state (tenant, status, seq);
-- The few that a runner still holds and someone asked to cancel.
CREATE INDEX run_state_cancel_asked ON run_state (run_id) WHERE cancel_requested AND status IN (2, 4);

CREATE TABLE run_outcome (
    run_id            uuid PRIMARY KEY,
    status            smallint NOT NULL,
    result            bytea,                      -- JSON
    failure           jsonb,                      -- {reason, message, step, attempts}
    exhausted         smallint NOT NULL DEFAULT 0 -- holdfast.v1.BudgetDimension
);

CREATE TABLE idempotency (
    tenant            text NOT NULL,
    idempotency_key   text NOT NULL,
    run_id            uuid NOT NULL,
    fingerprint       bytea NOT NULL,
    PRIMARY KEY (tenant, idempotency_key)
);

-- Runs a runner may take now: of an ordering key only the first.
CREATE TABLE ready (
    pool              text NOT NULL,
    tenant            text NOT NULL,
    rank              smallint NOT NULL,
    seq               bigint NOT NULL,
    run_id            uuid NOT NULL,
    PRIMARY KEY (pool, tenant, rank, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

-- An ordering key in use, and the run that has it.
CREATE TABLE lane (
    tenant            text NOT NULL,
    ordering_key      text NOT NULL,
    holder            uuid NOT NULL,
    PRIMARY KEY (tenant, ordering_key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- Runs behind another of their ordering key.
CREATE TABLE blocked (
    tenant            text NOT NULL,
    ordering_key      text NOT NULL,
    seq               bigint NOT NULL,
    run_id            uuid NOT NULL,
    PRIMARY KEY (tenant, ordering_key, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- A runner's session with an invoker: one heartbeat for all its leases.
CREATE TABLE runner_session (
    session_id        uuid PRIMARY KEY,
    invoker_id        uuid NOT NULL,
    address           text NOT NULL,
    intents           jsonb NOT NULL,
    open_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Its leases are freed after this.
    expire_time       timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE lease (
    run_id            uuid PRIMARY KEY,
    session_id        uuid NOT NULL,
    epoch             bigint NOT NULL,
    tenant            text NOT NULL,
    lease_time        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX lease_session ON lease (session_id);

-- What falls due. kind: 1 the run's deadline, 2 back to ready after a delay.
CREATE TABLE timer (
    run_id            uuid NOT NULL,
    kind              smallint NOT NULL,
    due_time          timestamptz NOT NULL,
    PRIMARY KEY (run_id, kind)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX timer_due ON timer (due_time);

-- Intents a runner has served, and with which code.
CREATE TABLE served_intent (
    intent            text NOT NULL,
    agent_version     text NOT NULL,
    last_seen_time    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (intent, agent_version)
);

-- History, dropped by the day: the records of steps, and what happened in order.
CREATE TABLE checkpoint (
    day               date NOT NULL,
    run_id            uuid NOT NULL,
    position          integer NOT NULL,
    attempt           integer NOT NULL,
    key               text NOT NULL,
    record            bytea NOT NULL,             -- StepRecord
    create_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, position, day)
) PARTITION BY RANGE (day);

CREATE TABLE transcript (
    day               date NOT NULL,
    run_id            uuid NOT NULL,
    first_sequence    bigint NOT NULL,
    last_sequence     bigint NOT NULL,
    -- Exactly one: an EventBatch of the runner, or one event of the platform as
    -- {kind, time, …} that the service turns into a RunEvent.
    events            bytea,
    note              jsonb,
    -- How many of its own events each scope has emitted with this row; a run's rows are summed.
    emitted           jsonb,
    create_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, first_sequence, day),
    CHECK ((events IS NULL) <> (note IS NULL))
) PARTITION BY RANGE (day);

CREATE TABLE checkpoint_default PARTITION OF checkpoint DEFAULT;
CREATE TABLE transcript_default PARTITION OF transcript DEFAULT;

-- Makes the partitions for the days from today to `ahead` days on. Repeatable.
CREATE FUNCTION make_partitions(ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
DECLARE
    made integer := 0;
    d date;
    parent text;
BEGIN
    FOR d IN SELECT generate_series(current_date, current_date + ahead, interval '1 day')::date LOOP
        FOREACH parent IN ARRAY ARRAY['checkpoint', 'transcript'] LOOP
            IF to_regclass(format('holdfast.%s_%s', parent, to_char(d, 'YYYYMMDD'))) IS NULL THEN
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                               parent || '_' || to_char(d, 'YYYYMMDD'), parent, d, d + 1);
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
SELECT make_partitions(7);
