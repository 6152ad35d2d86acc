-- phase: before
-- Time travel: a run may begin with the recorded steps of another.

ALTER TABLE run
    -- The run whose steps it began with, and up to which position; both NULL if it began anew.
    ADD COLUMN forked_from      uuid,
    ADD COLUMN forked_position  integer;

-- Writes the rows of a run that has another's envelope, limits and agent version, QUEUED but in no queue yet, and
-- returns where it belongs. The steps it begins with count as its first commit: runners load what was committed.
-- Decides nothing: the caller holds the tenant's lock and has looked. It copies envelopes for a role that may not
-- read them, and admits for one that may not invoke.
CREATE FUNCTION begin_fork(
    source uuid, fork uuid, idempotency_key text, until integer, steps bigint, tools bigint, tokens bigint,
    context bigint, fingerprint bytea, emitted jsonb
) RETURNS TABLE (pool text, rank smallint, seq bigint, lane text, day date)
LANGUAGE sql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
WITH old AS MATERIALIZED (
    SELECT r.tenant, r.intent, r.shape, r.user_id, r.correlation_id, r.session_id, r.labels, r.priority, r.envelope,
           r.ordering_key AS key, s.pool, s.rank, s.ordering_key AS lane, s.max_attempts, s.agent_version,
           s.max_steps, s.max_tools, s.max_tokens, s.max_context, s.deadline_ms, clock_timestamp() AS now,
           nextval('run_seq') AS seq
    FROM run r JOIN run_state s ON s.run_id = r.run_id WHERE r.run_id = $1
), runs AS (
    INSERT INTO run (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key, correlation_id,
                     session_id, ordering_key, priority, labels, envelope, forked_from, forked_position)
    SELECT $2, seq, tenant, now, intent, shape, user_id, $3, correlation_id, session_id, key, priority, labels,
           envelope, $1, $4 FROM old
), states AS (
    INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch, attempt, max_attempts,
                           last_commit, last_position, last_sequence, create_time, deadline_time, max_steps, max_tools, max_tokens,
                           max_context, deadline_ms, steps, tools, tokens, context, agent_version)
    SELECT $2, tenant, seq, now::date, pool, rank, lane, 1, 0, 0, max_attempts, 1, $4, 1, now,
           now + make_interval(secs => deadline_ms / 1e3), max_steps, max_tools, max_tokens, max_context,
           deadline_ms, $5, $6, $7, $8, agent_version FROM old
), keys AS (
    INSERT INTO idempotency (tenant, idempotency_key, run_id, fingerprint) SELECT tenant, $3, $2, $9 FROM old
), notes AS (
    INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note, emitted)
    SELECT now::date, $2, 1, 1, jsonb_build_object('kind', 'accepted', 'time', now, 'budget', jsonb_build_object(
               'deadline_ms', deadline_ms, 'max_steps', max_steps, 'max_tools', max_tools,
               'max_tokens', max_tokens, 'max_context', max_context)), $10 FROM old
), timers AS (
    INSERT INTO timer (run_id, kind, due_time)
    SELECT $2, 1, now + make_interval(secs => deadline_ms / 1e3) FROM old
), handoffs AS (
    -- What the source has not used is allowed to the new run too.
    INSERT INTO handoff (run_id, deadline_ms, max_steps, max_tools, max_tokens, max_context)
    SELECT $2, h.deadline_ms, h.max_steps, h.max_tools, h.max_tokens, h.max_context FROM handoff h WHERE h.run_id = $1
)
SELECT old.pool, old.rank, old.seq, old.lane, old.now::date FROM old
$$;
REVOKE ALL ON FUNCTION begin_fork(uuid, uuid, text, integer, bigint, bigint, bigint, bigint, bytea, jsonb) FROM PUBLIC;

INSERT INTO role_grant (role, privilege, object) VALUES
    -- Puts a copy of a run into its tenant's queue, and tells of it; still sees no envelope, and never leases.
    ('holdfast_checkpoint', 'EXECUTE',
     'FUNCTION begin_fork(uuid, uuid, text, integer, bigint, bigint, bigint, bigint, bytea, jsonb)'),
    ('holdfast_checkpoint', 'SELECT (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key, '
     'correlation_id, session_id, ordering_key, priority, labels, forked_from, forked_position)', 'run'),
    ('holdfast_checkpoint', 'SELECT', 'idempotency, history_dropped'),
    ('holdfast_checkpoint', 'INSERT', 'blocked, lane');
SELECT grant_roles();
