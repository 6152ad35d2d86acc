-- phase: before
-- A person may hold a run: no runner executes it meanwhile. While it is QUEUED and held it waits as a delayed run
-- does, with a delay (timer of kind 2) that never ends, so no claim ever comes past it.

ALTER TABLE run_state
    -- Why, and when its own delay is over if it had one; NULL if nobody holds it.
    ADD COLUMN paused jsonb;

-- What runners have to give back is looked for with every heartbeat.
CREATE INDEX run_state_pause_asked ON run_state (run_id) WHERE paused IS NOT NULL AND status IN (2, 4);
