-- phase: before
-- A tenant may say for how long after its end a run of each shape is kept: then it goes, with all that hangs on it.

ALTER TABLE tenant
    -- In seconds. Null: runs of that shape stay, and of their history what `drop_history` leaves.
    ADD COLUMN keep_service_s   double precision CHECK (keep_service_s > 0),
    ADD COLUMN keep_worker_s    double precision CHECK (keep_worker_s > 0),
    ADD COLUMN keep_workflow_s  double precision CHECK (keep_workflow_s > 0),
    ADD COLUMN keep_batch_s     double precision CHECK (keep_batch_s > 0),
    -- The four by the number of their Shape; null if all are.
    ADD COLUMN keep_s           double precision[] GENERATED ALWAYS AS (
        CASE WHEN coalesce(keep_service_s, keep_worker_s, keep_workflow_s, keep_batch_s) IS NOT NULL
             THEN ARRAY[keep_service_s, keep_worker_s, keep_workflow_s, keep_batch_s] END) STORED;
CREATE INDEX tenant_kept ON tenant (tenant) WHERE keep_s IS NOT NULL;

ALTER TABLE run_state
    -- What its retention is judged by: the number of its Shape as it is shown, or 0 where that is to be found out.
    ADD COLUMN shape      smallint NOT NULL DEFAULT 0,
    -- Its retention counts from here, if that is later than its end: something needed the run when it was over.
    ADD COLUMN keep_from  timestamptz;
-- By day, so that a day's history is known to be kept without a look at those who keep it.
CREATE INDEX run_state_ended ON run_state (tenant, shape, day, (greatest(end_time, keep_from)))
WHERE end_time IS NOT NULL;

-- Rows leave these too, now.
ALTER TABLE run SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE run_outcome SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE idempotency SET (autovacuum_vacuum_scale_factor = 0.05);

-- Removes those of the runs that have ended, whose tenant's retention for their shape is over, and that nothing needs,
-- with all that hangs on them; of many large ones the first. Returns how many were removed, and how many were put
-- where they are found no longer, or later: they are of another shape, or needed, which is asked again in an hour.
--
-- A run is needed while the run that started it is there (a parent that is started again hears of its children, and
-- a start repeated finds them by their keys), while it has lent to one that lives, while an effect of it is neither
-- delivered nor discarded, and while a batch that gave it to do something is not over.
--
-- Waits for no run: those that somebody holds, as to start them again, are passed over. A crash removes all or none.
CREATE FUNCTION remove_runs(ids uuid[]) RETURNS TABLE (removed bigint, put_off bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
DECLARE
    held uuid[];
    gone uuid[];
    its_day date;
BEGIN
    -- A statement of its own: what is decided is read after the locks.
    held := ARRAY(SELECT s.run_id FROM run_state s WHERE s.run_id = ANY (ids) AND s.end_time IS NOT NULL
                   ORDER BY s.run_id FOR UPDATE SKIP LOCKED);
    WITH stands AS MATERIALIZED (
        SELECT s.run_id, s.tenant, s.parent_run_id, CASE WHEN s.handed_off THEN 2 ELSE r.shape END AS shape,
               greatest(s.end_time, s.keep_from) AS since,
               sum(s.last_position + s.last_sequence) OVER (ORDER BY s.run_id)
                   - s.last_position - s.last_sequence AS ahead
        FROM run_state s JOIN run r ON r.run_id = s.run_id WHERE s.run_id = ANY (held)
    ), judged AS MATERIALIZED (
        SELECT s.run_id, s.shape, k.keep, coalesce(s.since + k.keep < clock_timestamp(), false) AS is_over,
               EXISTS (SELECT FROM run_state p WHERE p.run_id = s.parent_run_id)
               OR EXISTS (SELECT FROM child c WHERE c.lender = s.run_id)
               OR EXISTS (SELECT FROM effect e WHERE e.run_id = s.run_id AND e.status NOT IN (3, 5))
               OR EXISTS (SELECT FROM batch_deed d JOIN batch b ON b.batch_id = d.batch_id
                          WHERE d.id = s.run_id AND b.end_time IS NULL) AS needed
        FROM stands s JOIN tenant t ON t.tenant = s.tenant
        CROSS JOIN LATERAL (SELECT make_interval(secs => t.keep_s[s.shape]) AS keep) k
        WHERE s.ahead < 10000
    ), later AS (
        UPDATE run_state s
        SET shape = j.shape,
            keep_from = CASE WHEN j.is_over THEN clock_timestamp() - j.keep + interval '1 hour' ELSE s.keep_from END
        FROM judged j WHERE s.run_id = j.run_id AND (j.needed OR NOT j.is_over) RETURNING 1
    )
    SELECT ARRAY(SELECT run_id FROM judged WHERE is_over AND NOT needed), (SELECT count(*) FROM later)
    INTO gone, put_off;
    removed := cardinality(gone);

    -- History first, by day, each in its partition; the key last, with the run it stands for.
    FOR its_day IN SELECT DISTINCT s.day FROM run_state s WHERE s.run_id = ANY (gone) LOOP
        EXECUTE 'DELETE FROM checkpoint WHERE day = $1 AND run_id = ANY ($2)' USING its_day, gone;
        EXECUTE 'DELETE FROM transcript WHERE day = $1 AND run_id = ANY ($2)' USING its_day, gone;
    END LOOP;
    WITH effects AS (
        DELETE FROM effect WHERE run_id = ANY (gone) AND status IN (3, 5)
        RETURNING effect_id, tenant, idempotency_key
    ), attempts AS (
        DELETE FROM effect_attempt a USING effects e WHERE a.effect_id = e.effect_id
    )
    DELETE FROM effect_key k USING effects e
    WHERE (k.tenant, k.idempotency_key) = (e.tenant, e.idempotency_key) AND k.effect_id = e.effect_id;
    DELETE FROM approval WHERE run_id = ANY (gone);
    DELETE FROM handoff WHERE run_id = ANY (gone);
    DELETE FROM run_outcome WHERE run_id = ANY (gone);
    WITH runs AS (
        DELETE FROM run WHERE run_id = ANY (gone) RETURNING run_id, tenant, idempotency_key
    )
    DELETE FROM idempotency i USING runs r
    WHERE (i.tenant, i.idempotency_key) = (r.tenant, r.idempotency_key) AND i.run_id = r.run_id;
    DELETE FROM run_state WHERE run_id = ANY (gone);
    RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION remove_runs(uuid[]) FROM PUBLIC;

-- The days before `before` on which there are runs that have ended and that a retention will remove: till then their
-- history is theirs. Goes from day to day by index, however many runs each has.
CREATE FUNCTION kept_days(before date) RETURNS date[]
LANGUAGE sql STABLE SET search_path = holdfast, pg_temp AS $$
WITH RECURSIVE kept AS (
    SELECT t.tenant, k.shape FROM tenant t
    CROSS JOIN LATERAL (SELECT shape::smallint AS shape FROM unnest(t.keep_s) WITH ORDINALITY AS k (keep_s, shape)
                        WHERE k.keep_s IS NOT NULL
                        UNION ALL SELECT 0::smallint) k
    WHERE t.keep_s IS NOT NULL
), walk AS (
    SELECT k.tenant, k.shape, d.day FROM kept k
    CROSS JOIN LATERAL (SELECT s.day FROM run_state s
                        WHERE s.tenant = k.tenant AND s.shape = k.shape AND s.day < before AND s.end_time IS NOT NULL
                        ORDER BY s.day LIMIT 1) d
    UNION ALL
    SELECT w.tenant, w.shape, d.day FROM walk w
    CROSS JOIN LATERAL (SELECT s.day FROM run_state s
                        WHERE s.tenant = w.tenant AND s.shape = w.shape AND s.day > w.day AND s.day < before
                              AND s.end_time IS NOT NULL
                        ORDER BY s.day LIMIT 1) d
)
SELECT coalesce(array_agg(DISTINCT day), '{}') FROM walk
$$;
REVOKE ALL ON FUNCTION kept_days(date) FROM PUBLIC;

-- As in 0007, but for the days that a tenant keeps. Those are read once: whoever is kept there had ended before.
CREATE OR REPLACE FUNCTION drop_history(keep integer) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    before date := current_date - keep;
    old date[];
    chosen date;
    parent text;
BEGIN
    SELECT array_agg(DISTINCT d) INTO old FROM (
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS d
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('checkpoint'::regclass, 'transcript'::regclass) AND c.relname ~ '_\d{8}$'
        UNION ALL SELECT day FROM checkpoint_default WHERE day < before
        UNION ALL SELECT day FROM transcript_default WHERE day < before) every_day
    WHERE d < before;
    IF keep < 1 OR old IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT min(d) INTO chosen FROM unnest(old) d WHERE NOT d = ANY (living_days(before) || kept_days(before));
    IF chosen IS NULL THEN
        RETURN NULL;
    END IF;
    BEGIN
        LOCK TABLE ONLY checkpoint, ONLY transcript IN ACCESS EXCLUSIVE MODE;
        IF chosen = ANY (living_days(before)) THEN
            RETURN NULL;
        END IF;
        FOREACH parent IN ARRAY ARRAY['checkpoint', 'transcript'] LOOP
            EXECUTE format('DROP TABLE IF EXISTS %I', parent || '_' || to_char(chosen, 'YYYYMMDD'));
            EXECUTE format('DELETE FROM %I WHERE day = $1', parent || '_default') USING chosen;
        END LOOP;
    EXCEPTION
        WHEN lock_not_available THEN RETURN NULL;
    END;
    INSERT INTO history_dropped (day) VALUES (chosen)
    ON CONFLICT (day) DO UPDATE SET drop_time = excluded.drop_time;
    RETURN chosen;
END $$;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'EXECUTE', 'FUNCTION remove_runs(uuid[])');
SELECT grant_roles();
