-- phase: before
-- The next items of a batch are found without passing over those that wait for their next try.

-- Never tried ('-infinity'), then by the time of the next try.
CREATE INDEX batch_item_due ON batch_item (batch_id, (coalesce(not_before, '-infinity')), index)
WHERE status = 1;
