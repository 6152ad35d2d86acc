-- phase: before
-- Sessions: what the runs of one conversation hand on to each other. Handoffs: runs that may go on in the background.
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

-- Runs that may still move to the background, and the budget they get there; a limit of 0 stays as it is.
CREATE TABLE handoff (
    run_id            uuid PRIMARY KEY,
    deadline_ms       bigint NOT NULL,
    max_steps         bigint NOT NULL,
    max_tools         bigint NOT NULL,
    max_tokens        bigint NOT NULL,
    max_context       bigint NOT NULL
);
ALTER TABLE run_state ADD COLUMN handed_off boolean NOT NULL DEFAULT false;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, DELETE', 'session'),
    ('holdfast_checkpoint', 'SELECT, INSERT, UPDATE', 'session'),
    -- What a run may spend in the background is its caller's word: a runner only says when.
    ('holdfast_invoker', 'INSERT', 'handoff'),
    ('holdfast_checkpoint', 'SELECT, DELETE', 'handoff');
SELECT grant_roles();
