-- phase: before
-- A tenant that has named a destination hears of effects that are set aside, too: whoever settles them stages that.

INSERT INTO role_grant (role, privilege, object) VALUES
    ('holdfast_dispatcher', 'SELECT (tenant, alert_destination)', 'tenant'),
    ('holdfast_dispatcher', 'INSERT', 'effect_key, effect');
SELECT grant_roles();
