-- phase: before
-- Access: the tokens by which programs call, and what was done by whom.

CREATE TABLE access_token (
    token_id     uuid PRIMARY KEY,
    hash         bytea NOT NULL UNIQUE CHECK (length(hash) = 32),   -- SHA-256; the secret itself is nowhere
    tenant       text NOT NULL,                                     -- '*': the platform
    name         text NOT NULL,
    username     text NOT NULL,
    groups       text[] NOT NULL,
    roles        text[] NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    create_user  text NOT NULL,
    expire_time  timestamptz,
    revoke_time  timestamptz
);
CREATE INDEX access_token_tenant ON access_token (tenant, token_id);

CREATE TABLE audit (
    sequence     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant       text NOT NULL,
    username     text NOT NULL,
    credential   text NOT NULL,
    action       text NOT NULL,
    subject      jsonb NOT NULL,
    outcome      text NOT NULL,               -- '' before the call acts
    call_id      uuid NOT NULL
);
CREATE INDEX audit_tenant ON audit (tenant, sequence);

-- What was written stays: not even the owner changes it by accident.
CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is only ever added to';
END $$;
CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION keep_audit();

-- What a runner wants to hear from those who attach to it.
ALTER TABLE runner_session ADD COLUMN attach_token text NOT NULL DEFAULT '';

INSERT INTO role_grant (role, privilege, object) VALUES
    -- Each service asks who calls; one makes and ends tokens.
    ('holdfast_invoker', 'SELECT, INSERT, UPDATE (revoke_time)', 'access_token'),
    ('holdfast_checkpoint', 'SELECT', 'access_token'),
    ('holdfast_approval', 'SELECT', 'access_token'),
    ('holdfast_dispatcher', 'SELECT', 'access_token'),
    -- Each adds to the audit; one reads it.
    ('holdfast_invoker', 'SELECT, INSERT', 'audit'),
    ('holdfast_checkpoint', 'INSERT', 'audit'),
    ('holdfast_approval', 'INSERT', 'audit'),
    ('holdfast_dispatcher', 'INSERT', 'audit');
SELECT grant_roles();
