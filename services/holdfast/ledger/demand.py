"""How much work runners could take now, for whoever decides how many runners there are.

A tenant's work beyond its caps is left out: more runners would not be given it. The cost grows with how many
tenants have work, up to `MOST_TENANTS` of a pool, and with what is in flight; not with the queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.kit.db import Connection
from holdfast.ledger.domain.batch import light_intent

MOST_TENANTS: Final = 10_000
"""Of a pool's tenants with work, as many are counted, those first whose turn is next."""
MOST_RUNS: Final = 10_000
"""Of runs from a priority on, as many are counted in each pool."""
LAG_TENANTS: Final = 100
"""Of a pool's tenants with work, so many say how long it has waited, those first whose turn is next."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be scaled: runners of intents and of their light items, by runs of at least a priority."""

    intents: tuple[str, ...]
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What there is for them: runs they could take, how long the oldest waits, runs they hold."""

    waiting: int = 0
    lag_s: float = 0.0
    in_flight: int = 0

    @property
    def total(self) -> int:
        """Everything that wants a place on a runner."""
        return self.waiting + self.in_flight


# A fresh run waits in the pool of its intent, one that has started or is pinned in that of its version too.
# How long it waits is known of a fresh one only: from when it may start, which is its deadline without its
# time. Of each rank (the negative priority) the first in the order of the pool is the oldest.
#
# Of what waits as much counts as would be given: of an intent and its light items together up to its cap, of
# a tenant's intents together up to the tenant's.
BACKLOG: Final = """
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::smallint[])
        AS u (question, named, intent, rank)
), pools AS MATERIALIZED (
    SELECT question, rank, named, intent AS pool, true AS fresh FROM asked
    UNION ALL
    SELECT a.question, a.rank, a.named, s.intent || '@' || s.agent_version, false
    FROM asked a JOIN served_intent s ON s.intent = a.intent
), queues AS MATERIALIZED (
    SELECT p.question, p.named, n.tenant, sum(n.runs)::bigint AS runs
    FROM pools p CROSS JOIN LATERAL (
        (SELECT tenant, ready AS runs FROM tenant_pool
         WHERE pool = p.pool AND ready > 0 AND NOT capped AND NOT held AND p.rank = 0
         ORDER BY turn LIMIT $5)
        UNION ALL
        SELECT tenant, count(*) FROM (
            SELECT r.tenant
            FROM (SELECT tenant FROM tenant_pool
                  WHERE pool = p.pool AND ready > 0 AND NOT capped AND NOT held AND p.rank < 0
                  ORDER BY turn LIMIT $5) r
            CROSS JOIN LATERAL (
                SELECT max_in_flight - in_flight AS room FROM tenant WHERE tenant.tenant = r.tenant LIMIT 1) t
            CROSS JOIN LATERAL (
                SELECT FROM ready q WHERE q.pool = p.pool AND q.tenant = r.tenant AND q.rank <= p.rank
                LIMIT t.room) q
            LIMIT $6) high
        GROUP BY tenant
    ) n GROUP BY p.question, p.named, n.tenant
), waiting AS (
    SELECT question, sum(least(runs, room))::bigint AS runs
    FROM (
        SELECT q.question, t.room, sum(least(q.runs, i.room)) AS runs
        FROM queues q CROSS JOIN LATERAL (
            SELECT max_in_flight - in_flight AS room, (intent_caps ->> q.named)::int AS cap
            FROM tenant WHERE tenant.tenant = q.tenant LIMIT 1) t
        CROSS JOIN LATERAL (
            SELECT CASE WHEN t.cap IS NOT NULL THEN greatest(0, t.cap - (
                SELECT count(*) FROM lease WHERE lease.tenant = q.tenant AND lease.capped_intent = q.named
            )) END AS room) i
        GROUP BY q.question, q.tenant, t.room
    ) given GROUP BY question
), lag AS (
    SELECT p.question, max(extract(epoch FROM statement_timestamp() - s.start))::float8 AS seconds
    FROM pools p CROSS JOIN LATERAL (
        SELECT tenant FROM tenant_pool
        WHERE pool = p.pool AND ready > 0 AND NOT capped AND NOT held AND p.fresh ORDER BY turn LIMIT $7) r
    CROSS JOIN generate_series(-9, p.rank) AS ranks (rank)
    CROSS JOIN LATERAL (
        SELECT run_id FROM ready q
        WHERE q.pool = p.pool AND q.tenant = r.tenant AND q.rank = ranks.rank ORDER BY q.seq LIMIT 1) q
    CROSS JOIN LATERAL (
        SELECT deadline_time - make_interval(secs => deadline_ms / 1000.0) AS start FROM run_state
        WHERE run_state.run_id = q.run_id LIMIT 1) s
    GROUP BY p.question
), serving AS (
    SELECT DISTINCT a.question, s.session_id
    FROM runner_session s CROSS JOIN LATERAL jsonb_array_elements(s.intents) AS served (intent)
    JOIN asked a ON a.intent = served.intent ->> 'intent'
), held AS (
    SELECT s.question, sum(l.runs)::bigint AS runs
    FROM serving s CROSS JOIN LATERAL (
        SELECT count(*) AS runs FROM lease WHERE lease.session_id = s.session_id) l
    GROUP BY s.question
)
SELECT a.question, coalesce(w.runs, 0) AS waiting, greatest(coalesce(g.seconds, 0), 0) AS lag_s,
       coalesce(h.runs, 0) AS in_flight
FROM (SELECT DISTINCT question FROM asked) a LEFT JOIN waiting w USING (question)
LEFT JOIN lag g USING (question) LEFT JOIN held h USING (question)
"""


async def backlogs(connection: Connection, questions: Sequence[Question]) -> dict[Question, Backlog]:
    """Answer all the questions at one moment, in one statement. Locks nothing."""
    asked = [
        (number, named, intent, -question.priority)
        for number, question in enumerate(questions)
        for named in dict.fromkeys(question.intents)
        for intent in (named, light_intent(named))
    ]
    rows = await connection.fetch(
        BACKLOG,
        *([row[at] for row in asked] for at in range(4)),
        MOST_TENANTS,
        MOST_RUNS,
        LAG_TENANTS,
    )
    return {
        questions[row["question"]]: Backlog(row["waiting"], row["lag_s"], row["in_flight"]) for row in rows
    }
