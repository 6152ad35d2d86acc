-- phase: before
-- The second half of a batch: outputs judged, applied through the outbox or follow-up runs, and undone.
--
-- What an item is given to do outside (an effect, a run) is a deed; one of each purpose per item, ever. A deed's end
-- is noted in `batch_news` by whoever ends it, without a lock of the batch's; an Invoker reads the news under the
-- tenant's lock and moves the items. Lock order as before: tenant, batch, what belongs to it, the outbox last.

ALTER TABLE batch
    -- The ReviewPolicy and the ApplyTarget as they hold now; beside them what the ledger itself reads of both.
    ADD COLUMN review               bytea,
    ADD COLUMN min_accepted_share   double precision NOT NULL DEFAULT 0,
    ADD COLUMN min_judged           integer NOT NULL DEFAULT 0,
    ADD COLUMN reviewer_intent      text NOT NULL DEFAULT '',
    ADD COLUMN apply_when_met       boolean NOT NULL DEFAULT false,
    ADD COLUMN apply_target         bytea,
    ADD COLUMN apply_destination    text NOT NULL DEFAULT '',
    ADD COLUMN undo_destination     text NOT NULL DEFAULT '',
    -- Items judged one by one, and those of them that were accepted.
    ADD COLUMN judged               bigint NOT NULL DEFAULT 0,
    ADD COLUMN judged_accepted      bigint NOT NULL DEFAULT 0,
    ADD COLUMN policy_met           boolean NOT NULL DEFAULT false,
    -- What the reviewing agent is still to be asked about: what is left of its sample, then as many again in place of
    -- those it does not judge; NULL until it was drawn. Of these `to_ask` now, from the front.
    ADD COLUMN sample               bigint[],
    ADD COLUMN to_ask               integer NOT NULL DEFAULT 0,
    -- What is to become of the staged items nobody has judged: ItemStatus 4 or 5; 0: they stay.
    ADD COLUMN rest_status          smallint NOT NULL DEFAULT 0,
    ADD COLUMN rest_reason          text NOT NULL DEFAULT '',
    ADD COLUMN rest_reviewer        text NOT NULL DEFAULT '',
    -- 0 for no limit; `apply_clock` is when the items applied so far are paid for.
    ADD COLUMN apply_per_second     double precision NOT NULL DEFAULT 0,
    ADD COLUMN apply_clock          timestamptz NOT NULL DEFAULT '-infinity',
    -- When the present phase, applying or rolling back, began; the first to apply fixes the target.
    ADD COLUMN phase_time           timestamptz,
    ADD COLUMN applied_once         boolean NOT NULL DEFAULT false,
    -- Which of the applied items are undone, how far the walk from the newest to the oldest is (NULL: at its
    -- beginning), after which index those that could not be undone before are tried again (NULL: all were), and how
    -- many undos are on their way.
    ADD COLUMN undo_reason          text NOT NULL DEFAULT '',
    ADD COLUMN undo_filter          jsonb,
    ADD COLUMN undo_before          bigint,
    ADD COLUMN undo_again           bigint,
    ADD COLUMN undoing              bigint NOT NULL DEFAULT 0 CHECK (undoing >= 0);

-- Batches that are to be judged, applied or undone further.
CREATE TABLE batch_applying (
    batch_id            uuid PRIMARY KEY,
    tenant              text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE FUNCTION batch_needs_applying() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
BEGIN
    INSERT INTO batch_applying (batch_id, tenant) VALUES (NEW.batch_id, NEW.tenant) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION batch_needs_applying() FROM PUBLIC;

-- Here, so that an Invoker of before, which knows nothing of it, hands its batches on too: IN_REVIEW, APPLYING,
-- ROLLING_BACK.
CREATE TRIGGER batch_needs_applying AFTER UPDATE OF status ON batch FOR EACH ROW
WHEN (NEW.status IN (4, 5, 7) AND OLD.status <> NEW.status)
EXECUTE FUNCTION batch_needs_applying();

CREATE TABLE batch_review (
    batch_id            uuid NOT NULL,
    index               bigint NOT NULL,
    -- ItemStatus 4 or 5.
    status              smallint NOT NULL,
    reason              text NOT NULL,
    -- A user, or the run of a reviewing agent; empty if the policy did.
    reviewer            text NOT NULL,
    -- Judged by itself, not with all the rest.
    single              boolean NOT NULL,
    edited              bytea,
    review_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (batch_id, index)
);

CREATE TABLE batch_deed (
    -- The effect's or the run's.
    id                  uuid PRIMARY KEY,
    -- The order in which they were given; the undos go backwards.
    seq                 bigint GENERATED ALWAYS AS IDENTITY,
    batch_id            uuid NOT NULL,
    index               bigint NOT NULL,
    -- 1: applies, 2: undoes, 3: judges.
    purpose             smallint NOT NULL,
    by_run              boolean NOT NULL,
    UNIQUE (batch_id, purpose, index)
);
CREATE INDEX batch_deed_seq ON batch_deed (batch_id, purpose, seq);

-- Deeds that have ended and nobody has looked at yet, with what came of them.
CREATE TABLE batch_news (
    seq                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                  uuid NOT NULL,
    done                boolean NOT NULL,
    failure             jsonb
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

CREATE FUNCTION batch_effect_ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
BEGIN
    INSERT INTO batch_news (id, done, failure)
    VALUES (NEW.effect_id, NEW.status = 3,
            CASE NEW.status
                WHEN 4 THEN coalesce(NEW.last_failure, jsonb_build_object(
                    'reason', 'DEAD_LETTERED', 'message', 'The effect was set aside.'))
                WHEN 5 THEN jsonb_build_object('reason', 'DISCARDED',
                                               'message', coalesce(NEW.discard_reason, '')) END);
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION batch_effect_ended() FROM PUBLIC;

-- Costs the effects of others two comparisons. A key of this form that is not a batch's is news of no deed.
CREATE TRIGGER batch_effect_ended AFTER UPDATE OF status ON effect FOR EACH ROW
WHEN (NEW.run_id IS NULL AND NEW.status > 2 AND OLD.status <> NEW.status AND NEW.idempotency_key LIKE 'batch/%')
EXECUTE FUNCTION batch_effect_ended();

CREATE FUNCTION batch_deed_run_ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
BEGIN
    INSERT INTO batch_news (id, done, failure)
    SELECT d.id, e.status = 5,
           CASE WHEN e.status <> 5 THEN coalesce(e.failure, jsonb_build_object(
               'reason', 'RUN_FAILED', 'message', 'The run did not succeed.')) END
    FROM batch_deed d
    CROSS JOIN LATERAL (SELECT * FROM newly n WHERE n.run_id = d.id LIMIT 1) e
    WHERE d.id = ANY (ARRAY(SELECT n.run_id FROM newly n)) AND d.by_run;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION batch_deed_run_ended() FROM PUBLIC;

CREATE TRIGGER batch_deed_run_ended AFTER INSERT ON run_outcome
REFERENCING NEW TABLE AS newly FOR EACH STATEMENT EXECUTE FUNCTION batch_deed_run_ended();

-- Makes dead-lettered effects of a batch due again, their attempts afresh; returns those it did. They have no
-- ordering key. So the Invoker need neither read nor change effects.
CREATE FUNCTION batch_send_again(ids uuid[]) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = holdfast, pg_temp AS $$
    WITH again AS (
        UPDATE effect e SET status = 1, deliver_time = NULL, next_attempt_time = statement_timestamp()
        WHERE e.effect_id = ANY (ids) AND e.status = 4 AND e.ordering_key = ''
          AND EXISTS (SELECT FROM batch_deed d WHERE d.id = e.effect_id)
        RETURNING e.effect_id, e.destination_id, e.seq, e.attempts, e.next_attempt_time
    )
    INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key, attempts)
    SELECT destination_id, next_attempt_time, seq, effect_id, '', attempts FROM again
    RETURNING effect_id
$$;
REVOKE ALL ON FUNCTION batch_send_again(uuid[]) FROM PUBLIC;

-- Whether two JSON values differ; by their bytes where PostgreSQL cannot read them.
CREATE FUNCTION output_differs(output bytea, was bytea) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(output, 'UTF8')::jsonb <> convert_from(was, 'UTF8')::jsonb;
EXCEPTION WHEN others THEN
    RETURN output <> was;
END $$;

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE, DELETE', 'batch_applying, batch_review, batch_deed, batch_news'),
    ('holdfast_invoker', 'EXECUTE', 'FUNCTION batch_send_again(uuid[])');
SELECT grant_roles();
