-- phase: before
-- Whether a destination has an effect can be asked before a call of unknown outcome is repeated, and what is sent
-- again to a destination has a budget of its own, which all dispatchers share.

ALTER TABLE destination
    -- Where it is asked; `{key}` in it stands for the idempotency key. Empty unless the mode is CONFIRM.
    ADD COLUMN status_url text NOT NULL DEFAULT '',
    -- How many effects are sent again a second.
    ADD COLUMN max_retries_per_second double precision NOT NULL DEFAULT 100 CHECK (max_retries_per_second > 0);

ALTER TABLE destination_state
    -- Until when the budget of what is sent again is used up; it may lie ahead by a burst.
    ADD COLUMN next_retry_time timestamptz NOT NULL DEFAULT clock_timestamp();

ALTER TABLE effect
    -- A call was made of which nobody knows whether the destination took it.
    ADD COLUMN unsure boolean NOT NULL DEFAULT false;
