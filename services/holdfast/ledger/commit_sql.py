"""The statements of the commit path, as text with named parts.

What a commit carries travels with its row (`item`) through the UPDATE into the INSERTs: joining it again
afterwards would cost the square of the group. The fence is a part of its own: tests take it out to see that
they would notice.
"""

from collections.abc import Sequence
from typing import Final

FENCE: Final = """
    s.epoch = i.epoch AND s.status IN (2, 4) AND s.last_commit = i.number - 1
    AND (i.first_sequence = 0 OR s.last_sequence = i.first_sequence - 1)"""
"""Only the holder of the lease writes, in order, and only the next (`domain.commit.verdict`)."""

BUDGET: Final = """
    (i.steps = 0 OR s.steps + s.lent_steps + i.steps <= s.max_steps)
    AND (i.tools = 0 OR s.tools + s.lent_tools + i.tools <= s.max_tools)
    AND (i.tokens = 0 OR s.tokens + s.lent_tokens + i.lead_tokens < s.max_tokens)
    AND i.context <= s.max_context"""
"""Nothing lands that the budget does not bear (`domain.commit.overspent`); what is lent counts as spent."""

PHASE: Final = """
    CASE WHEN s.undoing IS NULL THEN i.status <> 9 ELSE i.status NOT IN (3, 5, 6, 8) END"""
"""A run ends otherwise while its steps are undone (`domain.commit`: `NOT_WHILE_UNDOING` and its opposite)."""

# The keys and records of all steps are the first two parameters, each commit's `records` of them from `at`.
_PROGRESS_COLUMNS: Final = (
    ("index", "integer"),
    ("run_id", "uuid"),
    ("epoch", "bigint"),
    ("number", "integer"),
    ("at", "integer"),
    ("records", "integer"),
    ("steps", "bigint"),
    ("tools", "bigint"),
    ("tokens", "bigint"),
    ("lead_tokens", "bigint"),
    ("context", "bigint"),
    ("first_sequence", "bigint"),
    ("last_sequence", "bigint"),
    ("events", "bytea"),
    ("emitted", "text"),
    ("undo_on", "smallint"),
    ("undo_within_ms", "bigint"),
)
_MOVE_COLUMNS: Final = (
    *_PROGRESS_COLUMNS,
    ("status", "smallint"),
    ("uncounted", "integer"),
    ("last_failure", "text"),
    ("note", "text"),
    ("result", "bytea"),
    ("failure", "text"),
    ("exhausted", "smallint"),
)

_CHANNEL: Final = f"${len(_MOVE_COLUMNS) + 3}::text"

_ADVANCE: Final = """
            last_commit = i.number,
            last_position = s.last_position + i.records,
            steps = s.steps + i.steps,
            tools = s.tools + i.tools,
            tokens = s.tokens + i.tokens,
            context = greatest(s.context, i.context),
            undo_on = CASE i.undo_on WHEN 0 THEN s.undo_on ELSE i.undo_on END,
            undo_within_ms = coalesce(i.undo_within_ms, s.undo_within_ms)"""

_KEEP: Final = """
    kept AS (
        INSERT INTO checkpoint (day, run_id, position, attempt, key, record)
        SELECT m.day, m.run_id, m.position + r.ordinal, m.attempt, r.key, r.record
        FROM moved m, unnest(($1::text[])[m.at : m.at + m.records - 1],
                             ($2::bytea[])[m.at : m.at + m.records - 1])
            WITH ORDINALITY AS r(key, record, ordinal)
        WHERE m.records > 0
    ),
    told AS (
        INSERT INTO transcript (day, run_id, first_sequence, last_sequence, events, emitted)
        SELECT day, run_id, first_sequence, last_sequence, events, emitted::jsonb
        FROM moved WHERE first_sequence > 0
    )"""


def progress(fence: str = FENCE, budget: str = BUDGET) -> str:
    """Return the statement that stores commits which leave their runs where they are; one row for each."""
    return f"""
WITH moved AS (
        UPDATE run_state s SET {_ADVANCE},
            last_sequence = CASE i.first_sequence WHEN 0 THEN s.last_sequence ELSE i.last_sequence END
        FROM {_items(_PROGRESS_COLUMNS)}
        WHERE s.run_id = i.run_id AND {fence} AND {budget}
        RETURNING i.index, s.run_id, s.day, s.last_position - i.records AS position, s.attempt, i.at,
                  i.records, i.first_sequence, i.last_sequence, i.events, i.emitted, s.status,
                  s.cancel_requested
    ),
    {_KEEP}
SELECT index, status, cancel_requested FROM moved"""  # noqa: S608 - parts of this module, no values


_MOVED: Final = f"""
        UPDATE run_state s SET {_ADVANCE},
            last_sequence = CASE i.first_sequence WHEN 0 THEN s.last_sequence ELSE i.last_sequence END
                            + (i.note IS NOT NULL)::integer,
            status = CASE i.status WHEN 2 THEN s.status ELSE i.status END,
            attempt = s.attempt - i.uncounted,
            last_failure = coalesce(i.last_failure::jsonb, s.last_failure),
            end_time = CASE WHEN i.status >= 5 THEN clock_timestamp() END"""  # noqa: S608 - a constant of ours

_RETURNED: Final = """
        RETURNING i.index, s.run_id, s.day, s.last_position - i.records AS position,
                  s.attempt + i.uncounted AS attempt, i.at, i.records, i.first_sequence, i.last_sequence,
                  i.events, i.emitted, i.note, s.last_sequence AS noted_sequence, i.result, i.failure,
                  i.exhausted, s.status, s.cancel_requested, s.tenant, s.pool, s.rank, s.seq,
                  s.ordering_key, s.mail_last, s.gates,
                  s.children > 0 OR s.parent_run_id IS NOT NULL AS related"""

_ENDED: Final = """
    ended AS (
        INSERT INTO run_outcome (run_id, status, result, failure, exhausted)
        SELECT run_id, status, result, failure::jsonb, exhausted FROM moved WHERE status >= 5
    )"""


def move(fence: str = FENCE, budget: str = BUDGET) -> str:
    """Return the statement that also moves runs to a status, ends them, and writes the platform's notes.

    Status 2 leaves a run with its runner, whatever it does there. One row per stored commit, with what the
    queue needs to know of its run. Leases, counters and lanes are left to `release`.
    """
    return f"""
WITH moved AS ({_MOVED}
        FROM {_items(_MOVE_COLUMNS)}
        WHERE s.run_id = i.run_id AND {fence} AND {budget} AND {PHASE}{_RETURNED}
    ),
    {_KEEP},
    noted AS (
        INSERT INTO transcript (day, run_id, first_sequence, last_sequence, note)
        SELECT day, run_id, noted_sequence, noted_sequence, note::jsonb FROM moved WHERE note IS NOT NULL
    ),{_ENDED}
SELECT index, run_id, status, cancel_requested, tenant, pool, rank, seq, ordering_key, mail_last, gates,
       related
FROM moved"""  # noqa: S608 - parts of this module, no values


def finish(fence: str = FENCE, budget: str = BUDGET) -> str:
    """Return the statement that ends runs whose end sets nothing else free: one round trip, no transaction.

    That is so without an ordering key, whose next run would come, without a signal ever sent, whose mailbox
    is to be cleared, without a gate, which is to be closed, without a parent, which is to be told, or
    children, which may have to stop, and while no tenant of the group is at its cap,
    which would be lifted, or has caps of intents or users. What is not so, or is fenced, is left
    as it is and has no row.

    Waiting for a lock does not refresh what the statement sees, and need not: the counters are read from the
    row that was locked, and a lease and its timers, which nobody but the run's own fence guards, were there
    before the runner that sends this knew of them.

    On the channel that the last parameter names, who waits for these runs is told by the same COMMIT; null
    tells nobody.
    """
    return f"""
WITH door AS MATERIALIZED (
        SELECT in_flight < max_in_flight AND num_nonnulls(intent_caps, user_caps, user_cap) = 0 AS below_cap
        FROM tenant
        WHERE tenant = ANY(ARRAY(SELECT DISTINCT s.tenant FROM unnest($4::uuid[]) AS u (run_id)
                                 JOIN run_state s ON s.run_id = u.run_id))
        ORDER BY tenant FOR NO KEY UPDATE
    ),
    moved AS ({_MOVED}
        FROM {_items(_MOVE_COLUMNS)}
        WHERE s.run_id = i.run_id AND {fence} AND {budget} AND {PHASE}
              AND s.ordering_key = '' AND s.mail_last = 0 AND s.gates = 0
              AND s.children = 0 AND s.parent_run_id IS NULL
              AND (SELECT bool_and(below_cap) FROM door){_RETURNED}
    ),
    {_KEEP},{_ENDED},
    gone AS (
        DELETE FROM lease WHERE run_id = ANY(ARRAY(SELECT run_id FROM moved)) RETURNING tenant
    ),
    timers AS (
        DELETE FROM timer WHERE run_id = ANY(ARRAY(SELECT run_id FROM moved))
    ),
    counted AS (
        UPDATE tenant SET in_flight = in_flight - freed.n
        FROM (SELECT tenant, count(*) AS n FROM gone GROUP BY tenant) freed
        WHERE tenant.tenant = freed.tenant
    )
SELECT index, status, cancel_requested,
       CASE WHEN {_CHANNEL} IS NOT NULL THEN pg_notify({_CHANNEL}, run_id::text) END
FROM moved"""  # noqa: S608 - parts of this module, no values


HOLD: Final = """
SELECT s.run_id, s.attempt, s.max_attempts, s.cancel_requested, s.cancel_reason, s.undo_on,
       s.undoing IS NOT NULL AS undoing, clock_timestamp() AS now
FROM run_state s JOIN unnest($1::uuid[]) AS u (run_id) ON s.run_id = u.run_id
ORDER BY s.run_id FOR NO KEY UPDATE OF s"""
"""Locks runs whose attempt ended without an end, to decide what becomes of them."""


STANDING: Final = """
SELECT run_id, status, epoch, last_commit, last_sequence, steps + lent_steps AS steps,
       tools + lent_tools AS tools, tokens + lent_tokens AS tokens, context, max_steps, max_tools, max_tokens,
       max_context, cancel_requested, undoing IS NOT NULL AS undoing
FROM run_state JOIN unnest($1::uuid[]) AS u (run_id) USING (run_id)"""
"""Where runs stand, to say why a commit did not land."""


def _items(columns: Sequence[tuple[str, str]]) -> str:
    arrays = ", ".join(f"${at}::{kind}[]" for at, (_, kind) in enumerate(columns, 3))
    return f"unnest({arrays}) AS i({', '.join(name for name, _ in columns)})"
