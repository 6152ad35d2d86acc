-- phase: before
-- A gate that a run's end has closed undecided is opened anew when the run is started again: one row for each turn.
ALTER TABLE approval DROP CONSTRAINT approval_run_id_step_key;
CREATE INDEX approval_run ON approval (run_id, step);

-- A run that comes back to its gate is answered without a lock where nothing is to be changed.
INSERT INTO role_grant (role, privilege, object) VALUES ('holdfast_approval', 'SELECT (consumed)', 'mailbox');
SELECT grant_roles();
