-- phase: after
-- Timers are found by what they do since 0008: the index over all of them served the version before.
DROP INDEX timer_due;
