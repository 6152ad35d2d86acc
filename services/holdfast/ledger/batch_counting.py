"""The part of a statement that keeps a batch's counters equal to its items, wherever those moved."""

from typing import Final

COUNTED: Final = """
shift AS MATERIALIZED (
    SELECT status, sum(n) AS n FROM (
        SELECT old AS status, -1 AS n FROM was UNION ALL SELECT new, 1 FROM was
    ) s GROUP BY status HAVING sum(n) <> 0
), fewer AS (
    UPDATE batch_count c SET n = c.n + s.n FROM shift s
    WHERE c.batch_id = $1 AND c.status = s.status AND s.n < 0
), more AS (
    INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, status, n FROM shift WHERE n > 0
    ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
)
"""
"""Counts the moves in `was (old, new)`, one row an item, of the batch $1, whose tenant is locked."""

PACED: Final = """
paced AS (
    INSERT INTO batch_pace AS p (batch_id, slot, at, ended, tokens)
    SELECT $1, m.at % 16, m.at, (SELECT count(*) FROM was), 0
    FROM (SELECT floor(extract(epoch FROM clock_timestamp()) / 5)::bigint AS at) m
    ON CONFLICT (batch_id, slot) DO UPDATE
    SET at = excluded.at,
        ended = CASE WHEN p.at = excluded.at THEN p.ended ELSE 0 END + excluded.ended,
        tokens = CASE WHEN p.at = excluded.at THEN p.tokens ELSE 0 END + excluded.tokens
)
"""
"""Notes the moves in `was` as ended now, for the pace."""
