-- phase: after
-- Timers are found by what they do since 0008_wait: the index over all of them served the version before.
DROP INDEX timer_due;
