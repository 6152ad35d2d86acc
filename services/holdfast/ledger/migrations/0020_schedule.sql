-- phase: before
-- Schedules: what starts by itself, when next, what waits for its turn, and what came of the latest times.
--
-- A schedule's row is locked before its tenant's, and nothing that holds a tenant's lock asks for one.

CREATE TABLE schedule (
    schedule_id       uuid PRIMARY KEY,
    tenant            text NOT NULL,
    name              text NOT NULL,
    -- The Schedule as it was accepted; what the ledger itself reads of it stands beside it.
    definition        bytea NOT NULL,
    fingerprint       bytea NOT NULL,
    timing            jsonb NOT NULL,
    intent            text NOT NULL,
    labels            jsonb NOT NULL,
    overlap           smallint NOT NULL,
    catch_up_s        double precision NOT NULL,
    paused            boolean NOT NULL,
    pause_reason      text NOT NULL,
    -- The next time by the rule, and that time with its jitter.
    next_time         timestamptz,
    due_time          timestamptz,
    -- When the Invokers look at it next: at its due time, or sooner where something waits for its turn.
    wake_time         timestamptz,
    -- What it started last.
    run_id            uuid,
    create_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant, name)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX schedule_wake ON schedule (wake_time) WHERE wake_time IS NOT NULL;

-- Times that wait until what their schedule started last has ended. rank: 0 held up by the overlap policy,
-- 1 made up for, one after the other.
CREATE TABLE schedule_pending (
    schedule_id       uuid NOT NULL REFERENCES schedule ON DELETE CASCADE,
    rank              smallint NOT NULL,
    seq               bigint GENERATED ALWAYS AS IDENTITY,
    scheduled_time    timestamptz NOT NULL,
    origin            smallint NOT NULL,
    trigger_key       text NOT NULL DEFAULT '',
    since_time        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schedule_id, rank, seq)
);
CREATE UNIQUE INDEX schedule_pending_time ON schedule_pending (schedule_id, scheduled_time) WHERE rank = 1;

-- The latest times of each schedule, at most 20.
CREATE TABLE schedule_fire (
    schedule_id       uuid NOT NULL REFERENCES schedule ON DELETE CASCADE,
    seq               bigint GENERATED ALWAYS AS IDENTITY,
    scheduled_time    timestamptz NOT NULL,
    fire_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    origin            smallint NOT NULL,
    result            smallint NOT NULL,
    run_id            uuid,
    message           text NOT NULL,
    trigger_key       text NOT NULL,
    PRIMARY KEY (schedule_id, seq)
);

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE', 'schedule, schedule_pending, schedule_fire');
SELECT grant_roles();
