-- phase: before
-- Tenants: how fast they may start runs, and what was refused; turns that last over several claims.

ALTER TABLE tenant
    -- A bucket that leaks `rate` runs a second and holds `burst`; 0 is one second's worth, at least 1.
    ADD COLUMN rate               double precision NOT NULL DEFAULT 100000 CHECK (rate > 0),
    ADD COLUMN burst              integer NOT NULL DEFAULT 0 CHECK (burst >= 0),
    ADD COLUMN burst_room         double precision NOT NULL
        GENERATED ALWAYS AS (CASE burst WHEN 0 THEN greatest(1, rate) ELSE burst END) STORED,
    -- What is in the bucket, as of when.
    ADD COLUMN spent              double precision NOT NULL DEFAULT 0,
    ADD COLUMN spent_time         timestamptz NOT NULL DEFAULT now(),
    -- Hears of runs that are set aside; empty: nobody.
    ADD COLUMN alert_destination  text NOT NULL DEFAULT '',
    -- Counted by the Invokers and added once a second.
    ADD COLUMN refused_queue_full bigint NOT NULL DEFAULT 0,
    ADD COLUMN refused_rate       bigint NOT NULL DEFAULT 0,
    ADD COLUMN update_time        timestamptz NOT NULL DEFAULT now();
UPDATE tenant SET update_time = create_time;

-- How many runs of its turn a tenant has had: a turn cut short goes on with the next claim.
ALTER TABLE tenant_pool ADD COLUMN served integer NOT NULL DEFAULT 0;

-- A run is set aside by whoever finds it, and its alert is staged with that. What is in effects stays unread.
INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT (destination_id, tenant, name)', 'destination'),
    ('holdfast_invoker', 'SELECT, INSERT', 'effect_key'),
    ('holdfast_invoker', 'SELECT (effect_id, seq, next_attempt_time), INSERT', 'effect'),
    ('holdfast_invoker', 'INSERT', 'effect_waiting, effect_due');
SELECT grant_roles();
