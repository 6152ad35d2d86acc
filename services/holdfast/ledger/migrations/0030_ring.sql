-- phase: after
-- Claims stand on tenant_pool_open.
DROP INDEX tenant_pool_ring;
