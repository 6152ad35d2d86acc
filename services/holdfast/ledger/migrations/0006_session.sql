-- phase: before
-- Sessions: what the runs of one conversation hand on to each other.
--
-- A session's runs go through a lane of their own, named by U+0001 and the session's id, so that at most one of
-- them has not ended and been leased: whoever writes a session holds its lane. All rows of a tenant's sessions
-- change under the tenant's lock; lock order: tenant, …, run_state, session, outbox lane.

CREATE TABLE session (
    tenant            text NOT NULL,
    session_id        text NOT NULL,
    state             bytea NOT NULL,             -- JSON
    -- What it was before `run_id` wrote it, if that ended PARTIAL: where a retry of that run starts from.
    before            bytea,
    version           bigint NOT NULL,
    run_id            uuid NOT NULL,
    create_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, session_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, DELETE', 'session'),
    ('holdfast_checkpoint', 'SELECT, INSERT, UPDATE', 'session');
SELECT grant_roles();
