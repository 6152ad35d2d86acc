-- phase: before
-- The outbox: intents committed with what caused them, and how they reach their destinations.
--
-- An effect is in exactly one place while it is pending: `effect_due` (it may be sent from `due_time` on),
-- `effect_waiting` (another of its order is before it), or `effect_lease` (a dispatcher is sending it).
-- `effect` holds what never changes and how it ended. Lock order, after everything of a run: effect_key,
-- destination_state, effect_lease, effect_lane, effect_due and effect_waiting, effect.

CREATE TABLE destination (
    destination_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant              text NOT NULL,
    name                text NOT NULL,
    -- 1: HTTP.
    kind                smallint NOT NULL DEFAULT 1,
    url                 text NOT NULL,
    -- The name of the signing secret where the dispatcher runs; the secret itself is never here.
    secret_name         text NOT NULL,
    headers             jsonb NOT NULL,
    max_concurrent      integer NOT NULL CHECK (max_concurrent > 0),
    -- 0 for no limit.
    max_per_second      double precision NOT NULL CHECK (max_per_second >= 0),
    timeout_ms          bigint NOT NULL CHECK (timeout_ms > 0),
    max_attempts        integer NOT NULL CHECK (max_attempts > 0),
    initial_backoff_ms  bigint NOT NULL CHECK (initial_backoff_ms > 0),
    max_backoff_ms      bigint NOT NULL CHECK (max_backoff_ms > 0),
    -- The numbers of holdfast.v1.DeliveryMode.
    delivery_mode       smallint NOT NULL,
    breaker_failures    integer NOT NULL CHECK (breaker_failures > 0),
    breaker_reset_ms    bigint NOT NULL CHECK (breaker_reset_ms > 0),
    create_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant, name)
);

-- What all dispatchers share of a destination and change while they call it. Its lock serialises the claims
-- for one destination, so that its breaker, its concurrency and its rate hold over all dispatchers.
CREATE TABLE destination_state (
    destination_id      bigint PRIMARY KEY REFERENCES destination ON DELETE CASCADE,
    -- The numbers of holdfast.v1.BreakerState.
    breaker             smallint NOT NULL DEFAULT 1,
    -- Failures in a row.
    failures            integer NOT NULL DEFAULT 0,
    open_time           timestamptz,
    probe_time          timestamptz,
    -- When the rate allows the next call.
    next_call_time      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE effect (
    effect_id           uuid PRIMARY KEY,
    -- The order in which effects of one lane were committed; newest first in lists.
    seq                 bigint GENERATED ALWAYS AS IDENTITY,
    tenant              text NOT NULL,
    destination_id      bigint NOT NULL,
    run_id              uuid,
    step                text NOT NULL,
    idempotency_key     text NOT NULL,
    ordering_key        text NOT NULL,
    traceparent         text NOT NULL,
    body                bytea NOT NULL,
    create_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The numbers of holdfast.v1.EffectStatus; SENDING is not written here: it means that a lease exists.
    status              smallint NOT NULL DEFAULT 1,
    -- How often it was sent.
    attempts            integer NOT NULL DEFAULT 0,
    -- While it is in effect_due: its due_time there.
    next_attempt_time   timestamptz,
    deliver_time        timestamptz,
    -- {reason, message, step, attempts} of the last attempt that failed.
    last_failure        jsonb,
    discard_reason      text
) WITH (fillfactor = 85);
CREATE INDEX effect_status ON effect (tenant, status, seq);
CREATE INDEX effect_destination ON effect (destination_id, status, seq);
CREATE INDEX effect_run ON effect (run_id, seq) WHERE run_id IS NOT NULL;

-- Outlives nothing and is outlived by nothing of its effect: what makes a key one effect.
CREATE TABLE effect_key (
    tenant              text NOT NULL,
    idempotency_key     text NOT NULL,
    effect_id           uuid NOT NULL,
    fingerprint         bytea NOT NULL,
    PRIMARY KEY (tenant, idempotency_key)
);

-- An ordering key in use: only its head is due or leased, the others wait. Gone when nothing is pending.
CREATE TABLE effect_lane (
    destination_id      bigint NOT NULL,
    ordering_key        text NOT NULL,
    head                uuid NOT NULL,
    PRIMARY KEY (destination_id, ordering_key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE effect_waiting (
    destination_id      bigint NOT NULL,
    ordering_key        text NOT NULL,
    seq                 bigint NOT NULL,
    effect_id           uuid NOT NULL,
    -- Not sent before this time, also when its turn has come.
    not_before          timestamptz,
    -- How often it was sent, if a person sends it again.
    attempts            integer NOT NULL DEFAULT 0,
    PRIMARY KEY (destination_id, ordering_key, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE effect_due (
    destination_id      bigint NOT NULL,
    due_time            timestamptz NOT NULL,
    seq                 bigint NOT NULL,
    effect_id           uuid NOT NULL,
    ordering_key        text NOT NULL,
    -- How often it was sent, and how many of these count against its limit.
    attempts            integer NOT NULL DEFAULT 0,
    spent               integer NOT NULL DEFAULT 0,
    PRIMARY KEY (destination_id, due_time, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

-- A dispatcher process: one heartbeat for all its leases.
CREATE TABLE dispatcher_session (
    session_id          uuid PRIMARY KEY,
    expire_time         timestamptz NOT NULL
) WITH (fillfactor = 50);

-- No two leases have the same epoch, not even over what a person sends again.
CREATE SEQUENCE effect_epoch_seq;
CREATE TABLE effect_lease (
    effect_id           uuid PRIMARY KEY,
    destination_id      bigint NOT NULL,
    session_id          uuid NOT NULL,
    epoch               bigint NOT NULL DEFAULT nextval('effect_epoch_seq'),
    tenant              text NOT NULL,
    seq                 bigint NOT NULL,
    ordering_key        text NOT NULL,
    attempts            integer NOT NULL,
    spent               integer NOT NULL,
    -- The one call that decides about a half-open breaker.
    probe               boolean NOT NULL,
    lease_time          timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX effect_lease_destination ON effect_lease (destination_id);
CREATE INDEX effect_lease_session ON effect_lease (session_id);
CREATE INDEX effect_lease_tenant ON effect_lease (tenant, seq);

-- The attempts made; numbered from 1 over the life of the effect, retries by people included.
CREATE TABLE effect_attempt (
    effect_id           uuid NOT NULL,
    number              integer NOT NULL,
    attempt_time        timestamptz NOT NULL,
    http_status         smallint NOT NULL,
    failure             jsonb,
    duration_ms         bigint NOT NULL,
    PRIMARY KEY (effect_id, number)
);
