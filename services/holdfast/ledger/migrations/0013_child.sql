-- phase: before
-- Children: a run may start others, which spend of what it has, and is told how they end.

ALTER TABLE run_state
    -- The run that started it, under which of that run's epochs, and how many stand above it.
    ADD COLUMN parent_run_id  uuid,
    ADD COLUMN parent_epoch   bigint NOT NULL DEFAULT 0,
    ADD COLUMN depth          smallint NOT NULL DEFAULT 0,
    -- How many it has started itself: its end has to cancel those that live.
    ADD COLUMN children       integer NOT NULL DEFAULT 0,
    -- Set aside of its budget for runs that have not ended: counts as spent, and comes back with their ends.
    ADD COLUMN lent_steps     bigint NOT NULL DEFAULT 0,
    ADD COLUMN lent_tools     bigint NOT NULL DEFAULT 0,
    ADD COLUMN lent_tokens    bigint NOT NULL DEFAULT 0;
CREATE INDEX run_state_parent ON run_state (tenant, parent_run_id, seq) WHERE parent_run_id IS NOT NULL;
-- The few that wait and whose parent's end has asked to cancel them.
CREATE INDEX run_state_orphan ON run_state (run_id) WHERE cancel_requested AND status IN (1, 3);

-- What a living child was lent. The lender is its parent; when that ends before it, whoever lent to the parent.
CREATE TABLE child (
    run_id          uuid PRIMARY KEY,
    tenant          text NOT NULL,
    parent_run_id   uuid NOT NULL,
    lender          uuid NOT NULL,
    -- The numbers of holdfast.v1.OnParentEnd.
    on_parent_end   smallint NOT NULL,
    lent_steps      bigint NOT NULL,
    lent_tools      bigint NOT NULL,
    lent_tokens     bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX child_parent ON child (parent_run_id);
CREATE INDEX child_lender ON child (lender);

-- Puts the end of a child into its parent's mailbox, numbered as signals are; says whether it did, which it does
-- not under an id that is taken. Decides nothing: the caller holds the tenant's lock and the parent's row. It puts
-- in ends alone, for a role that may send no signals.
CREATE FUNCTION tell_parent(
    parent uuid, child uuid, signal text, fingerprint bytea, payload bytea, size integer
) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
WITH counted AS (
    UPDATE run_state s
    SET mail_last = mail_last + 1, mail_waiting = mail_waiting + 1, mail_bytes = mail_bytes + $6
    WHERE s.run_id = $1 AND s.end_time IS NULL
          AND EXISTS (SELECT FROM run_state c
                      WHERE c.run_id = $2 AND c.parent_run_id = $1 AND c.end_time IS NOT NULL)
          AND NOT EXISTS (SELECT FROM mailbox m WHERE m.run_id = $1 AND m.signal_id = $3)
    RETURNING mail_last
), put AS (
    INSERT INTO mailbox (run_id, signal_id, sequence, key, urgent, fingerprint, payload, size)
    SELECT $1, $3, mail_last, 'child:' || $2, false, $4, $5, $6 FROM counted RETURNING 1
)
SELECT EXISTS (SELECT FROM put)
$$;
REVOKE ALL ON FUNCTION tell_parent(uuid, uuid, text, bytea, bytea, integer) FROM PUBLIC;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE', 'child'),
    -- A child's end, whoever writes it, is told to its parent, and what it was lent goes back.
    ('holdfast_checkpoint', 'SELECT, UPDATE, DELETE', 'child'),
    ('holdfast_checkpoint', 'EXECUTE', 'FUNCTION tell_parent(uuid, uuid, text, bytea, bytea, integer)'),
    ('holdfast_invoker', 'EXECUTE', 'FUNCTION tell_parent(uuid, uuid, text, bytea, bytea, integer)');
SELECT grant_roles();
