-- phase: before
-- What is told of runs to those who look from outside.

-- How often a run has been parked: each time it goes on in a trace of its own, whose id follows from this.
ALTER TABLE run_state ADD COLUMN waits integer NOT NULL DEFAULT 0;

-- What ties the run of an effect to others: for the log of who delivers it.
ALTER TABLE effect ADD COLUMN correlation_id text NOT NULL DEFAULT '';

-- The breakers that do not let everything through: few.
CREATE INDEX destination_state_tripped ON destination_state (destination_id) WHERE breaker <> 1;

INSERT INTO role_grant (role, privilege, object) VALUES
    -- What is logged of a run names what it is tied to.
    ('holdfast_checkpoint', 'SELECT (run_id, correlation_id)', 'run');
SELECT grant_roles();
