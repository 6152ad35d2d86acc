-- phase: before
-- Compensation: a run whose agent has steps with undos says on which ends they are undone. Undoing is a phase of the
-- run, under a lease and limits of its own; from its beginning to the run's end `undoing` holds why.

ALTER TABLE run_state
    ADD COLUMN undo_on         smallint NOT NULL DEFAULT 0,   -- bits of domain.undo.UndoOn
    ADD COLUMN undo_within_ms  bigint,
    ADD COLUMN undoing         jsonb;
