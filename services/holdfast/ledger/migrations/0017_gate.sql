-- phase: before
-- A gate that a run's end has closed undecided is opened anew when the run is started again: one row for each turn.
ALTER TABLE approval DROP CONSTRAINT approval_run_id_step_key;
CREATE INDEX approval_run ON approval (run_id, step);
