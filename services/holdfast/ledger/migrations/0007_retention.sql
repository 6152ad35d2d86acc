-- phase: before
-- History is dropped by the day: transcripts and checkpoints of runs accepted long ago, once all of them have
-- ended. The runs themselves stay: their envelope, outcome and idempotency key.

-- The days of which nothing is left. A run of such a day cannot be started again: its steps are not known.
CREATE TABLE history_dropped (
    day         date PRIMARY KEY,
    drop_time   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The days before `before` that have runs which have not ended. Reads the oldest of each tenant and living status
-- (RunStatus 1 to 4) by index and stops at the first run that is young enough, a day of slack for clocks included.
CREATE FUNCTION living_days(before date) RETURNS date[]
LANGUAGE plpgsql STABLE SET search_path = holdfast, pg_temp AS $$
DECLARE
    found date[] := '{}';
    whose record;
    of_run date;
BEGIN
    FOR whose IN SELECT t.tenant, s.status FROM tenant t CROSS JOIN generate_series(1, 4) AS s (status) LOOP
        FOR of_run IN SELECT day FROM run_state
                      WHERE tenant = whose.tenant AND status = whose.status ORDER BY seq LOOP
            EXIT WHEN of_run > before;
            IF of_run < before AND NOT of_run = ANY (found) THEN
                found := found || of_run;
            END IF;
        END LOOP;
    END LOOP;
    RETURN found;
END $$;
REVOKE ALL ON FUNCTION living_days(date) FROM PUBLIC;

-- Drops the history of the oldest day that is more than `keep` days ago and on which every run accepted has ended.
-- Returns the day; null if there is none, or if somebody reads or writes history for longer than this waits.
-- Repeatable, also at the same time.
--
-- Whoever starts an ended run again holds the transcript (ROW EXCLUSIVE) when it reads `history_dropped`; what lives
-- is therefore read after the lock, and never loses its history.
CREATE FUNCTION drop_history(keep integer) RETURNS date
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
    SELECT min(d) INTO chosen FROM unnest(old) d WHERE NOT d = ANY (living_days(before));
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
REVOKE ALL ON FUNCTION drop_history(integer) FROM PUBLIC;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'EXECUTE', 'FUNCTION drop_history(integer)'),
    ('holdfast_invoker', 'SELECT', 'history_dropped');
SELECT grant_roles();
