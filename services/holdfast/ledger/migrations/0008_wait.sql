-- phase: before
-- Waiting: a run that waits for signals or for a time rests without a runner, PARKED, until one comes.
--
-- Who parks and who wakes a run holds its tenant's lock and then its row's, so a signal that comes before the
-- park is seen by it, and one that comes after it wakes the run. Its timer of kind 3 wakes it at a time.

ALTER TABLE run_state
    -- The mailbox keys, any of which wakes it; only of a run that is PARKED.
    ADD COLUMN park_keys text[];

-- Kind 1 ends a run at its deadline, 2 makes a delayed one ready, 3 wakes a parked one. The tenant of a wake, so
-- that many of one tenant that are due at once do not keep those of others waiting.
ALTER TABLE timer ADD COLUMN tenant text NOT NULL DEFAULT '';
-- Wakes may be many at once: neither do they stand in the way of what else is due. Takes the place of timer_due.
CREATE INDEX timer_platform ON timer (due_time) WHERE kind < 3;
CREATE INDEX timer_wake ON timer (due_time) WHERE kind = 3;
CREATE INDEX timer_wake_tenant ON timer (tenant, due_time) WHERE kind = 3;
