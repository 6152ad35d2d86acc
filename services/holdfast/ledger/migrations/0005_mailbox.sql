-- phase: before
-- The mailbox: signals that were acknowledged, until the run they are for has received them or ended.
--
-- A signal's sequence is given under its run's row lock, which the run's end takes too: what was acknowledged
-- before the end is in the record, what comes after it is refused. Lock order: run_state, then mailbox.

CREATE TABLE mailbox (
    run_id            uuid NOT NULL,
    signal_id         text NOT NULL,
    -- From 1 without gaps, in order of arrival.
    sequence          bigint NOT NULL,
    key               text NOT NULL,
    urgent            boolean NOT NULL,
    -- What tells a repeated call from another signal under the same id.
    fingerprint       bytea NOT NULL,
    -- JSON; emptied when the signal is consumed. The rest stays until the run's end: a repeated call finds it.
    payload           bytea NOT NULL,
    size              integer NOT NULL,           -- what it counts against the mailbox's bound, in bytes
    consumed          boolean NOT NULL DEFAULT false,
    create_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, signal_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE UNIQUE INDEX mailbox_waiting ON mailbox (run_id, sequence) WHERE NOT consumed;

ALTER TABLE run_state
    -- The sequence of the last signal the run was ever sent; 0 says that there is nothing to look for.
    ADD COLUMN mail_last     bigint NOT NULL DEFAULT 0,
    -- Equal to the count and the sizes of what waits in the mailbox.
    ADD COLUMN mail_waiting  integer NOT NULL DEFAULT 0,
    ADD COLUMN mail_bytes    bigint NOT NULL DEFAULT 0;
-- The few that a runner holds and that have signals waiting.
CREATE INDEX run_state_mail ON run_state (run_id) WHERE mail_waiting > 0 AND status IN (2, 4);

-- The numbers of holdfast.v1.InputPolicy.
ALTER TABLE served_intent ADD COLUMN on_input smallint NOT NULL DEFAULT 1;

INSERT INTO role_grant (role, privilege, object) VALUES
    -- Takes signals in and passes them on; the platform's ends clear what is left.
    ('holdfast_invoker', 'SELECT, INSERT, DELETE', 'mailbox'),
    -- Shows a runner what waits, and consumes it with the commit that says so.
    ('holdfast_checkpoint', 'SELECT, UPDATE, DELETE', 'mailbox');
SELECT grant_roles();
