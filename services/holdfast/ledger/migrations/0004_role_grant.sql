-- phase: before
-- What each role may do is data: a later migration adds its rows and calls `grant_roles()` once more.

CREATE TABLE role_grant (
    role        text NOT NULL,
    privilege   text NOT NULL,
    object      text NOT NULL,                    -- as GRANT names it: a list of tables, SCHEMA s, FUNCTION f(t)
    PRIMARY KEY (role, privilege, object)
);

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'USAGE', 'SCHEMA holdfast'),
    ('holdfast_checkpoint', 'USAGE', 'SCHEMA holdfast'),
    ('holdfast_approval', 'USAGE', 'SCHEMA holdfast'),
    ('holdfast_dispatcher', 'USAGE', 'SCHEMA holdfast'),

    -- Admits, leases, frees, cancels, retries, reads. Never writes a step; reads no effect.
    ('holdfast_invoker', 'SELECT', 'migration'),
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE', 'tenant, tenant_pool, run_state, served_intent'),
    ('holdfast_invoker', 'SELECT, INSERT', 'run, idempotency, transcript'),
    ('holdfast_invoker', 'SELECT, INSERT, DELETE', 'run_outcome, ready, blocked, lease'),
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE', 'lane, runner_session, timer'),
    ('holdfast_invoker', 'USAGE', 'SEQUENCE run_seq, turn_seq'),
    ('holdfast_invoker', 'EXECUTE', 'FUNCTION make_partitions(integer)'),

    -- Writes what runs record, and moves them. Never admits or leases; sees no envelope and no secret.
    ('holdfast_checkpoint', 'SELECT', 'migration, destination, destination_state'),
    ('holdfast_checkpoint', 'SELECT, UPDATE', 'tenant, run_state'),
    ('holdfast_checkpoint', 'SELECT, INSERT, UPDATE', 'tenant_pool'),
    ('holdfast_checkpoint', 'SELECT, INSERT', 'run_outcome, checkpoint, transcript, ready'),
    ('holdfast_checkpoint', 'SELECT, DELETE', 'blocked, lease'),
    ('holdfast_checkpoint', 'SELECT, UPDATE, DELETE', 'lane'),
    ('holdfast_checkpoint', 'SELECT, INSERT, UPDATE, DELETE', 'timer'),
    ('holdfast_checkpoint', 'SELECT, INSERT', 'effect, effect_key, effect_waiting, effect_due'),
    ('holdfast_checkpoint', 'SELECT, INSERT, UPDATE', 'effect_lane'),
    ('holdfast_checkpoint', 'USAGE', 'SEQUENCE turn_seq'),

    -- Delivers effects. Knows nothing of runs.
    ('holdfast_dispatcher', 'SELECT', 'migration, effect_key'),
    ('holdfast_dispatcher', 'SELECT, INSERT, UPDATE', 'destination, destination_state'),
    ('holdfast_dispatcher', 'SELECT, UPDATE', 'effect'),
    ('holdfast_dispatcher', 'SELECT, INSERT, UPDATE, DELETE',
     'effect_lane, effect_waiting, effect_due, dispatcher_session, effect_lease, effect_attempt'),
    ('holdfast_dispatcher', 'USAGE', 'SEQUENCE effect_epoch_seq'),

    ('holdfast_approval', 'SELECT', 'migration');

-- Grants each role that exists what its service needs. Repeatable.
CREATE OR REPLACE FUNCTION grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = holdfast, pg_temp AS $$
DECLARE
    given record;
BEGIN
    FOR given IN SELECT * FROM role_grant WHERE role IN (SELECT rolname FROM pg_roles) LOOP
        EXECUTE format('GRANT %s ON %s TO %I', given.privilege, given.object, given.role);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION grant_roles() FROM PUBLIC;
SELECT grant_roles();
