-- phase: before
-- Batches whose items are read from a source of the operator's, and schedules that start batches.

ALTER TABLE batch ADD COLUMN sourced boolean NOT NULL DEFAULT false;

-- The batches of which items are still to be read; a row goes with the status UPLOADING.
CREATE TABLE batch_source (
    batch_id            uuid PRIMARY KEY,
    -- The key of the last item stored, as text; NULL before the first.
    last_key            text,
    -- When it is read next: now, after a pause, or when whoever reads it has been silent for too long.
    look_time           timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Whose turn it is; another one with each turn, so that whoever has lost it stores nothing more.
    turn                uuid,
    -- Turns that have failed since an item was stored.
    failures            integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX batch_source_look ON batch_source (look_time);

-- What a schedule started last, and what a time has started, is a run or a batch.
ALTER TABLE schedule ADD COLUMN batch_id uuid;
ALTER TABLE schedule_fire ADD COLUMN batch_id uuid;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE', 'batch_source');
SELECT grant_roles();
