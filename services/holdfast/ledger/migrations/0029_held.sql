-- phase: before
-- A tenant's runs in a pool are held back while the cap of their intent is reached, or while the breaker of a
-- destination is open that their agent has called critical. Claims pass such a pool over, as one of a tenant at
-- its cap; what is true is decided under the tenant's lock by the claim that looks (`ledger/held.py`).

ALTER TABLE tenant
    -- Runs in flight by intent: {"triage": 5}. Null: only the tenant's cap holds.
    ADD COLUMN intent_caps jsonb CHECK (jsonb_typeof(intent_caps) = 'object');

ALTER TABLE tenant_pool
    ADD COLUMN held       boolean NOT NULL DEFAULT false,
    -- Why it is or was last held, for people.
    ADD COLUMN held_for   text NOT NULL DEFAULT '',
    -- The destination whose breaker it is. Null: it is a cap.
    ADD COLUMN held_by    bigint,
    -- When it is looked at again, if what holds it has not ended before.
    ADD COLUMN look_time  timestamptz;
-- Beside tenant_pool_ring, which releases of before use until a migration of phase after drops it.
CREATE INDEX tenant_pool_open ON tenant_pool (pool, turn) WHERE ready > 0 AND NOT capped AND NOT held;
CREATE INDEX tenant_pool_held ON tenant_pool (look_time) WHERE held;
CREATE INDEX tenant_pool_held_by ON tenant_pool (held_by) WHERE held AND held_by IS NOT NULL;

-- The slots of a capped intent are the leases that say so: nothing that could leak.
ALTER TABLE lease ADD COLUMN capped_intent text;
CREATE INDEX lease_capped ON lease (tenant, capped_intent) WHERE capped_intent IS NOT NULL;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT (destination_id, breaker, probe_time)', 'destination_state'),
    ('holdfast_invoker', 'UPDATE (capped_intent)', 'lease');
SELECT grant_roles();
