-- phase: before
-- Approvals: gates at which people decide, and the audit log of what was decided, one chain for each tenant.
--
-- Every change of a gate is made under its tenant's lock: so the chain has one end, a decision and the timeout
-- never both win, and the run that waits can be woken. Lock order: tenant, run_state, approval, outbox lane.

CREATE TABLE approval (
    approval_id       uuid PRIMARY KEY,
    tenant            text NOT NULL,
    run_id            uuid NOT NULL,
    step              text NOT NULL,
    intent            text NOT NULL,
    requester         text NOT NULL,
    title             text NOT NULL,
    labels            jsonb,
    payload           bytea NOT NULL,             -- JSON, edits included
    -- {policy, required, votes, …}: the gate as `ledger.approval_record` writes it.
    gate              jsonb NOT NULL,
    -- The numbers of holdfast.v1.ApprovalStatus.
    status            smallint NOT NULL,
    decision          jsonb,
    -- The number of its last change among all those of the tenant's approvals: who has seen one has seen those before.
    change            bigint NOT NULL,
    create_time       timestamptz NOT NULL,
    update_time       timestamptz NOT NULL,
    deadline_time     timestamptz NOT NULL,
    -- When it is to be looked at again; none once it is decided.
    next_time         timestamptz,
    UNIQUE (run_id, step)
);
CREATE INDEX approval_due ON approval (next_time) WHERE next_time IS NOT NULL;
CREATE INDEX approval_inbox ON approval (tenant, deadline_time, approval_id) WHERE status = 1;
CREATE INDEX approval_newest ON approval (tenant, create_time, approval_id);
CREATE INDEX approval_change ON approval (tenant, change);

CREATE TABLE approval_audit (
    tenant            text NOT NULL,
    sequence          bigint NOT NULL,
    approval_id       uuid NOT NULL,
    -- The numbers of holdfast.v1.AuditAction.
    action            smallint NOT NULL,
    user_id           text NOT NULL,
    content           bytea NOT NULL,
    previous_hash     bytea NOT NULL,
    hash              bytea NOT NULL,
    create_time       timestamptz NOT NULL,
    PRIMARY KEY (tenant, sequence)
);
CREATE INDEX approval_audit_approval ON approval_audit (approval_id, sequence);

-- How many gates the run has opened: its end has to close those nobody decided.
ALTER TABLE run_state ADD COLUMN gates integer NOT NULL DEFAULT 0;

INSERT INTO role_grant (role, privilege, object) VALUES
    -- Opens gates, decides them, and wakes the runs that wait for them. Never leases, never commits a step.
    ('holdfast_approval', 'SELECT, INSERT, UPDATE', 'approval'),
    ('holdfast_approval', 'SELECT, INSERT', 'approval_audit'),
    ('holdfast_approval', 'SELECT', 'served_intent, lease, runner_session, destination, destination_state'),
    ('holdfast_approval', 'SELECT (run_id, intent, user_id, labels)', 'run'),
    ('holdfast_approval', 'SELECT, UPDATE', 'tenant'),
    ('holdfast_approval', 'SELECT', 'run_state'),
    ('holdfast_approval', 'UPDATE (status, park_keys, gates, mail_last, mail_waiting, mail_bytes)', 'run_state'),
    ('holdfast_approval', 'SELECT, INSERT, UPDATE', 'tenant_pool'),
    ('holdfast_approval', 'SELECT (run_id, signal_id, sequence, urgent, fingerprint), INSERT', 'mailbox'),
    ('holdfast_approval', 'SELECT, INSERT', 'ready'),
    ('holdfast_approval', 'SELECT, INSERT, UPDATE, DELETE', 'timer'),
    ('holdfast_approval', 'SELECT, INSERT', 'effect, effect_key, effect_waiting, effect_due'),
    ('holdfast_approval', 'SELECT, INSERT, UPDATE', 'effect_lane'),
    ('holdfast_approval', 'USAGE', 'SEQUENCE turn_seq'),
    -- A run's end closes its gates, whoever writes it.
    ('holdfast_invoker', 'SELECT, UPDATE', 'approval'),
    ('holdfast_invoker', 'SELECT, INSERT', 'approval_audit'),
    ('holdfast_checkpoint', 'SELECT, UPDATE', 'approval'),
    ('holdfast_checkpoint', 'SELECT, INSERT', 'approval_audit');
SELECT grant_roles();
