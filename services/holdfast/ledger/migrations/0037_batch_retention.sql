-- phase: before
-- Batches and sessions go by their tenant's retention, too: batches by that of shape Batch, sessions by Service's.
--
-- A batch is gone at once, for whoever asks for it, and what it consisted of is removed bit by bit afterwards:
-- it may be millions of rows.

ALTER TABLE batch
    -- Its retention counts from here, if that is later than its end: something needed the batch when it was over.
    ADD COLUMN keep_from  timestamptz;
CREATE INDEX batch_ended ON batch (tenant, (greatest(end_time, keep_from))) WHERE end_time IS NOT NULL;

ALTER TABLE session
    ADD COLUMN keep_from  timestamptz;
CREATE INDEX session_used ON session (tenant, (greatest(update_time, keep_from)));

-- Batches that are gone and of which items, outputs or deeds are left.
CREATE TABLE batch_remains (
    batch_id            uuid PRIMARY KEY,
    remove_time         timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.02);

ALTER TABLE batch SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE batch_input SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE batch_output SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE batch_review SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE batch_deed SET (autovacuum_vacuum_scale_factor = 0.05);

-- Removes those of the batches that have ended and whose retention is over, and remembers what is left of them.
-- Returns how many were removed, and how many are needed, which is asked again in an hour: something of them is
-- in flight or still to be done, or an effect of them is in the dead letters, where it waits for a person.
--
-- Waits for nobody: a batch that somebody holds is passed over. A crash removes all or none.
CREATE FUNCTION remove_batches(ids uuid[]) RETURNS TABLE (removed bigint, put_off bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
DECLARE
    held uuid[];
    gone uuid[];
BEGIN
    -- A statement of its own: what is decided is read after the locks.
    held := ARRAY(SELECT b.batch_id FROM batch b WHERE b.batch_id = ANY (ids) AND b.end_time IS NOT NULL
                   ORDER BY b.batch_id FOR UPDATE SKIP LOCKED);
    WITH judged AS MATERIALIZED (
        SELECT b.batch_id, k.keep,
               coalesce(greatest(b.end_time, b.keep_from) + k.keep < clock_timestamp(), false) AS is_over,
               b.undoing > 0
               OR EXISTS (SELECT FROM batch_active a WHERE a.batch_id = b.batch_id)
               OR EXISTS (SELECT FROM batch_applying a WHERE a.batch_id = b.batch_id)
               OR EXISTS (SELECT FROM batch_run r WHERE r.batch_id = b.batch_id)
               OR EXISTS (SELECT FROM batch_count c WHERE c.batch_id = b.batch_id AND c.status IN (2, 7) AND c.n > 0)
               OR EXISTS (SELECT FROM (SELECT i.index FROM batch_item i
                                       WHERE i.batch_id = b.batch_id AND i.status IN (9, 11) LIMIT 2000) i
                          JOIN batch_deed d ON d.batch_id = b.batch_id AND d.purpose IN (1, 2) AND d.index = i.index
                          JOIN effect e ON e.effect_id = d.id WHERE e.status NOT IN (3, 5)) AS needed
        FROM batch b JOIN tenant t ON t.tenant = b.tenant
        CROSS JOIN LATERAL (SELECT make_interval(secs => t.keep_batch_s) AS keep) k
        WHERE b.batch_id = ANY (held)
    ), later AS (
        UPDATE batch b SET keep_from = clock_timestamp() - j.keep + interval '1 hour'
        FROM judged j WHERE b.batch_id = j.batch_id AND j.is_over AND j.needed RETURNING 1
    )
    SELECT ARRAY(SELECT batch_id FROM judged WHERE is_over AND NOT needed), (SELECT count(*) FROM later)
    INTO gone, put_off;
    removed := cardinality(gone);
    INSERT INTO batch_remains (batch_id) SELECT unnest(gone);
    DELETE FROM batch_count WHERE batch_id = ANY (gone);
    DELETE FROM batch_total WHERE batch_id = ANY (gone);
    DELETE FROM batch_pace WHERE batch_id = ANY (gone);
    DELETE FROM batch_latency WHERE batch_id = ANY (gone);
    DELETE FROM batch_error WHERE batch_id = ANY (gone);
    DELETE FROM batch_source WHERE batch_id = ANY (gone);
    DELETE FROM batch WHERE batch_id = ANY (gone);
    RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION remove_batches(uuid[]) FROM PUBLIC;

-- Removes up to `most` rows of each kind of one batch that is gone, and the effects of its deeds with their keys.
-- Returns how many rows that were, and one for the last look; 0 if nothing is left of any batch, or others are at it.
CREATE FUNCTION remove_batch_rows(most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
DECLARE
    one uuid;
    done bigint := 0;
    n bigint;
BEGIN
    SELECT batch_id INTO one FROM batch_remains ORDER BY batch_id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF one IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM batch_output WHERE batch_id = one AND index = ANY (ARRAY(
        SELECT index FROM batch_output WHERE batch_id = one ORDER BY index LIMIT most));
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done + n;
    DELETE FROM batch_review WHERE batch_id = one AND index = ANY (ARRAY(
        SELECT index FROM batch_review WHERE batch_id = one ORDER BY index LIMIT most));
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done + n;
    DELETE FROM batch_item WHERE batch_id = one AND index = ANY (ARRAY(
        SELECT index FROM batch_item WHERE batch_id = one ORDER BY index LIMIT most));
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done + n;
    DELETE FROM batch_input WHERE batch_id = one AND index = ANY (ARRAY(
        SELECT index FROM batch_input WHERE batch_id = one ORDER BY index LIMIT most));
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done + n;
    WITH deeds AS (
        DELETE FROM batch_deed WHERE id = ANY (ARRAY(
            SELECT id FROM batch_deed WHERE batch_id = one ORDER BY purpose, seq LIMIT most)) RETURNING id
    ), effects AS (
        DELETE FROM effect e USING deeds d WHERE e.effect_id = d.id AND e.status IN (3, 5)
        RETURNING e.effect_id, e.tenant, e.idempotency_key
    ), attempts AS (
        DELETE FROM effect_attempt a USING effects e WHERE a.effect_id = e.effect_id
    ), keys AS (
        DELETE FROM effect_key k USING effects e
        WHERE (k.tenant, k.idempotency_key) = (e.tenant, e.idempotency_key) AND k.effect_id = e.effect_id
    )
    SELECT count(*) INTO n FROM deeds;
    done := done + n;
    IF done = 0 THEN
        DELETE FROM batch_remains WHERE batch_id = one;
        RETURN 1;
    END IF;
    RETURN done;
END $$;
REVOKE ALL ON FUNCTION remove_batch_rows(integer) FROM PUBLIC;

-- Removes those of a tenant's sessions whose retention is over and of which no run is left. Returns how many were
-- removed, and how many still have runs, which is asked again in an hour. Under the tenant's lock, as all that
-- changes sessions: no run of one of them is on its way in meanwhile.
CREATE FUNCTION remove_sessions(of_tenant text, ids text[]) RETURNS TABLE (removed bigint, put_off bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
DECLARE
    keep interval;
BEGIN
    SELECT make_interval(secs => t.keep_service_s) INTO keep FROM tenant t
    WHERE t.tenant = of_tenant FOR NO KEY UPDATE;
    WITH judged AS MATERIALIZED (
        SELECT s.session_id,
               EXISTS (SELECT FROM run r WHERE r.tenant = of_tenant AND r.session_id = s.session_id
                                               AND r.session_id <> '') AS needed
        FROM session s WHERE s.tenant = of_tenant AND s.session_id = ANY (ids)
                             AND greatest(s.update_time, s.keep_from) + keep < clock_timestamp()
    ), later AS (
        UPDATE session s SET keep_from = clock_timestamp() - keep + interval '1 hour'
        FROM judged j WHERE s.tenant = of_tenant AND s.session_id = j.session_id AND j.needed RETURNING 1
    ), gone AS (
        DELETE FROM session s USING judged j
        WHERE s.tenant = of_tenant AND s.session_id = j.session_id AND NOT j.needed RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM later) INTO removed, put_off;
    RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION remove_sessions(text, text[]) FROM PUBLIC;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'EXECUTE',
     'FUNCTION remove_batches(uuid[]), remove_batch_rows(integer), remove_sessions(text, text[])');
SELECT grant_roles();
