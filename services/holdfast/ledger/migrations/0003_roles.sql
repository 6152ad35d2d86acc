-- phase: before
-- Roles: each service may do what its verbs do, and nothing else. The runner has no role at all.
--
-- The roles can log in and have no password: how they prove who they are is the operator's choice. Where the
-- migrating user may not create roles, the operator creates them and calls `SELECT holdfast.grant_roles()`.

DO $$
DECLARE
    service text;
BEGIN
    FOREACH service IN ARRAY ARRAY['invoker', 'checkpoint', 'approval', 'dispatcher'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_' || service) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN', 'holdfast_' || service);
            EXCEPTION
                -- Roles belong to the whole server: another database's migration may have been faster.
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'the role holdfast_% cannot be created here', service;
            END;
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION make_partitions(integer) FROM PUBLIC;

-- Grants each role that exists what its service needs. Repeatable.
CREATE FUNCTION grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = holdfast, pg_temp AS $$
DECLARE
    given record;
BEGIN
    FOR given IN SELECT * FROM (VALUES
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

        ('holdfast_approval', 'SELECT', 'migration')
    ) AS v (role, privilege, what) LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = given.role) THEN
            EXECUTE format('GRANT %s ON %s TO %I', given.privilege, given.what, given.role);
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION grant_roles() FROM PUBLIC;
SELECT grant_roles();
