-- phase: before
-- A tenant's users may have caps on what they have in flight. A claim that meets a run whose user is at his cap
-- moves it out of `ready`, so that no claim meets it again: it comes back when a lease of his ends, or when his cap
-- changes (`ledger/throttle.py`). It stays QUEUED, and is one of the tenant's `queued`.

ALTER TABLE tenant
    -- Runs in flight of each user that user_caps does not name. Null: only the tenant's cap holds.
    ADD COLUMN user_cap   integer CHECK (user_cap > 0),
    -- By user: {"ann": 3}. Null: none is named.
    ADD COLUMN user_caps  jsonb CHECK (jsonb_typeof(user_caps) = 'object');

-- The slots of a user are the leases that name him: nothing that could leak.
ALTER TABLE lease ADD COLUMN capped_user text;
CREATE INDEX lease_capped_user ON lease (tenant, capped_user) WHERE capped_user IS NOT NULL;

-- Runs that wait for a lease of their user to end; each user's in the order of their pools.
CREATE TABLE throttled (
    tenant            text NOT NULL,
    user_id           text NOT NULL,
    pool              text NOT NULL,
    rank              smallint NOT NULL,
    seq               bigint NOT NULL,
    run_id            uuid NOT NULL,
    PRIMARY KEY (tenant, user_id, pool, rank, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

-- Users with such runs, and when it is looked whether they have room after all.
CREATE TABLE throttled_user (
    tenant            text NOT NULL,
    user_id           text NOT NULL,
    look_time         timestamptz NOT NULL,
    PRIMARY KEY (tenant, user_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX throttled_user_look ON throttled_user (look_time);

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, INSERT, DELETE', 'throttled'),
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE', 'throttled_user'),
    ('holdfast_invoker', 'UPDATE (capped_user)', 'lease'),
    -- Whoever ends a run lets his user's next ones come back.
    ('holdfast_checkpoint', 'SELECT, DELETE', 'throttled');
SELECT grant_roles();
