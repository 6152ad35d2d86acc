"""The statements of the commit path, as text with named parts.

The fence is a part of its own: tests take it out to see that they would notice.
"""

from typing import Final

FENCE: Final = """
    s.epoch = i.epoch AND s.status = 2 AND s.last_commit = i.number - 1
    AND (i.first_sequence = 0 OR s.last_sequence = i.first_sequence - 1)"""
"""Only the holder of the lease writes, in order, and only the next (`domain.commit.verdict`)."""

BUDGET: Final = """
    (i.steps = 0 OR s.steps + i.steps <= s.max_steps)
    AND (i.tools = 0 OR s.tools + i.tools <= s.max_tools)
    AND (i.tokens = 0 OR s.tokens + i.lead_tokens < s.max_tokens)
    AND i.context <= s.max_context"""
"""Nothing lands that the budget does not bear (`domain.commit.overspent`)."""

# What both kinds of commit begin with; the index ties steps and events to their commit.
_ITEM: Final = """
    item AS (
        SELECT * FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::integer[], $5::integer[],
                             $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                             $11::bigint[], $12::bigint[])
            AS i(index, run_id, epoch, number, records, steps, tools, tokens, lead_tokens, context,
                 first_sequence, last_sequence)
    )"""

_ADVANCE: Final = """
            last_commit = i.number,
            last_position = s.last_position + i.records,
            steps = s.steps + i.steps,
            tools = s.tools + i.tools,
            tokens = s.tokens + i.tokens,
            context = greatest(s.context, i.context)"""

_KEEP: Final = """
    kept AS (
        INSERT INTO checkpoint (day, run_id, position, attempt, key, record)
        SELECT m.day, m.run_id, m.position + r.ordinal, m.attempt, r.key, r.record
        FROM unnest($13::integer[], $14::integer[], $15::text[], $16::bytea[])
            AS r(index, ordinal, key, record)
        JOIN moved m USING (index)
    ),
    told AS (
        INSERT INTO transcript (day, run_id, first_sequence, last_sequence, events, emitted)
        SELECT m.day, m.run_id, m.first_sequence, m.last_sequence, e.events, e.emitted::jsonb
        FROM unnest($17::integer[], $18::bytea[], $19::text[]) AS e(index, events, emitted)
        JOIN moved m USING (index)
    )"""


def progress(fence: str = FENCE, budget: str = BUDGET) -> str:
    """Return the statement that stores commits which leave their runs where they are; one row for each."""
    return f"""
WITH {_ITEM},
    moved AS (
        UPDATE run_state s SET {_ADVANCE},
            last_sequence = CASE i.first_sequence WHEN 0 THEN s.last_sequence ELSE i.last_sequence END
        FROM item i
        WHERE s.run_id = i.run_id AND {fence} AND {budget}
        RETURNING i.index, s.run_id, s.day, s.last_position - i.records AS position, s.attempt,
                  i.first_sequence, i.last_sequence, s.cancel_requested
    ),
    {_KEEP}
SELECT index, cancel_requested FROM moved"""  # noqa: S608 - parts of this module, no values


def move(fence: str = FENCE, budget: str = BUDGET) -> str:
    """Return the statement that also moves runs to a status, ends them, and writes the platform's notes.

    Status 2 leaves a run with its runner. One row per stored commit, with what the queue needs to know of its
    run. Leases, counters and lanes are left to `release`.
    """
    return f"""
WITH {_ITEM},
    target AS (
        SELECT * FROM unnest($20::integer[], $21::smallint[], $22::integer[], $23::text[], $24::text[])
            AS v(index, status, uncounted, last_failure, note)
    ),
    moved AS (
        UPDATE run_state s SET {_ADVANCE},
            last_sequence = CASE i.first_sequence WHEN 0 THEN s.last_sequence ELSE i.last_sequence END
                            + (v.note IS NOT NULL)::integer,
            status = v.status,
            attempt = s.attempt - v.uncounted,
            last_failure = coalesce(v.last_failure::jsonb, s.last_failure),
            end_time = CASE WHEN v.status >= 5 THEN clock_timestamp() END
        FROM item i JOIN target v USING (index)
        WHERE s.run_id = i.run_id AND {fence} AND {budget}
        RETURNING i.index, s.run_id, s.day, s.last_position - i.records AS position,
                  s.attempt + v.uncounted AS attempt, i.first_sequence, i.last_sequence, v.note,
                  s.last_sequence AS noted_sequence, s.status, s.cancel_requested, s.tenant, s.pool, s.rank,
                  s.seq, s.ordering_key
    ),
    {_KEEP},
    noted AS (
        INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
        SELECT day, run_id, noted_sequence, noted_sequence, note::jsonb FROM moved WHERE note IS NOT NULL
    ),
    ended AS (
        INSERT INTO run_outcome (run_id, status, result, failure, exhausted)
        SELECT m.run_id, m.status, o.result, o.failure::jsonb, o.exhausted
        FROM unnest($25::integer[], $26::bytea[], $27::text[], $28::smallint[])
            AS o(index, result, failure, exhausted)
        JOIN moved m USING (index)
    )
SELECT index, run_id, status, cancel_requested, tenant, pool, rank, seq, ordering_key
FROM moved"""  # noqa: S608 - parts of this module, no values


HOLD: Final = """
SELECT s.run_id, s.attempt, s.max_attempts, s.cancel_requested, s.cancel_reason, clock_timestamp() AS now
FROM run_state s JOIN unnest($1::uuid[]) AS u (run_id) ON s.run_id = u.run_id
ORDER BY s.run_id FOR NO KEY UPDATE OF s"""
"""Locks runs whose attempt ended without an end, to decide what becomes of them."""


STANDING: Final = """
SELECT run_id, status, epoch, last_commit, last_sequence, steps, tools, tokens, context, max_steps, max_tools,
       max_tokens, max_context, cancel_requested
FROM run_state JOIN unnest($1::uuid[]) AS u (run_id) USING (run_id)"""
"""Where runs stand, to say why a commit did not land."""
