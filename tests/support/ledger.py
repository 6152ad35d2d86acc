"""What tests of the ledger's verbs share: a connected ledger, runners, rows held against each other."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from holdfast.kit.db import Database
from holdfast.ledger import SESSION_SETTINGS
from holdfast.ledger.admission import Placements, Server, admit
from holdfast.ledger.claim import Demand, claim
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, CommitResult, Requeue, SessionWrite
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.session import RunnerSession, open_session
from holdfast.ledger.values import Admitted, Invocation, Leased, Outcome, Refused, ServedIntent

SERVED = (ServedIntent("count", "1"),)
FILL_TIMEOUT_S = 120.0  # of a busy machine


@asynccontextmanager
async def open_ledger(url: str, **more: Any) -> AsyncIterator[Database]:
    """Connect as a service would."""
    async with await Database.connect(
        url, application_name="test", server_settings=SESSION_SETTINGS, **more
    ) as db:
        yield db


def invocation(**more: Any) -> Invocation:
    """Return an envelope with the defaults of a test."""
    run_id = more.pop("run_id", None) or uuid.uuid4()
    values: dict[str, Any] = {
        "tenant": "acme",
        "intent": "count",
        "idempotency_key": str(run_id),
        "fingerprint": b"same",
        "envelope": b"envelope",
    }
    return Invocation(run_id=run_id, **values | more)


async def admitted(db: Database, *invocations: Invocation, on: Placements | None = None) -> list[Admitted]:
    """Admit, and insist that each was."""
    answers = await admit(db, invocations, on)
    for answer in answers:
        assert isinstance(answer, Admitted), answer
    return [answer for answer in answers if isinstance(answer, Admitted)]


async def refused(db: Database, one: Invocation) -> Refused:
    """Admit one, and insist that it is refused."""
    (answer,) = await admit(db, [one])
    assert isinstance(answer, Refused), answer
    return answer


class Runner:
    """A runner's session on the ledger."""

    def __init__(self, db: Database, served: Sequence[ServedIntent] = SERVED) -> None:
        self.db = db
        self.served = tuple(served)
        self.session_id = uuid.uuid4()
        self.invoker_id = uuid.uuid4()

    async def open(self, ttl_s: float = 60) -> list[Leased]:
        """Open the session, or open it again."""
        session = RunnerSession(self.session_id, self.invoker_id, "127.0.0.1:9", self.served)
        return await open_session(self.db, session, ttl_s=ttl_s)

    async def take(self, slots: int = 1) -> list[Leased]:
        """Claim runs."""
        return await claim(self.db, [Demand(self.session_id, self.served, slots)])

    def idle(self, slots: int = 1) -> Placements:
        """Offer slots for direct placement."""
        servers: dict[str, list[Server]] = {}
        for served in self.served:
            for pool in served.pools:
                servers.setdefault(pool, []).append(Server(self.session_id, served.agent_version))
        return Placements(servers, {self.session_id: slots})

    async def expire(self) -> None:
        """Let its time be over."""
        await execute(
            self.db,
            "UPDATE runner_session SET expire_time = now() - interval '1 s' WHERE session_id = $1",
            self.session_id,
        )


async def opened(db: Database, served: Sequence[ServedIntent] = SERVED) -> Runner:
    """Return a runner with an open session."""
    runner = Runner(db, served)
    await runner.open()
    return runner


async def finish(
    db: Database, run: Leased, status: RunStatus = RunStatus.SUCCEEDED, session: SessionWrite | None = None
) -> CommitResult:
    """End a run as its runner would."""
    item = CommitItem(
        run.run_id, run.epoch, run.last_commit + 1, move=Outcome(status, b'"done"'), session=session
    )
    return (await commit_group(db, [item]))[0]


async def give_up(db: Database, run: Leased, move: Requeue) -> CommitResult:
    """Let an attempt fail as its runner would."""
    item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=move)
    return (await commit_group(db, [item]))[0]


async def fetch(db: Database, query: str, *arguments: Any) -> list[Any]:
    """Read whatever a test must see."""
    async with db.connection() as connection:
        return list(await connection.fetch(query, *arguments))


async def execute(db: Database, query: str, *arguments: Any) -> None:
    """Change what no verb changes."""
    async with db.connection() as connection:
        await connection.execute(query, *arguments)


async def status_of(db: Database, run_id: uuid.UUID) -> RunStatus:
    """Read where a run stands."""
    (row,) = await fetch(db, "SELECT status FROM run_state WHERE run_id = $1", run_id)
    return RunStatus(row["status"])


async def fill(db: Database, *, tenants: int, runs: int) -> None:
    """Queue runs without the door, for its time is not what is measured."""
    async with db.transaction() as connection:
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute(
            """WITH new AS MATERIALIZED (
                   SELECT gen_random_uuid() AS run_id, nextval('run_seq') AS seq, 'fill-' || n % $1 AS tenant
                   FROM generate_series(1, $2::bigint) AS n
               ), runs AS (
                   INSERT INTO run (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key,
                                    correlation_id, session_id, ordering_key, priority, envelope)
                   SELECT run_id, seq, tenant, now(), 'count', 1, '', run_id::text, '', '', '', 0, '' FROM new
               ), states AS (
                   INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch,
                       attempt, max_attempts, create_time, deadline_time, max_steps, max_tools, max_tokens,
                       max_context, deadline_ms)
                   SELECT run_id, tenant, seq, current_date, 'count', 0, '', 1, 0, 0, 5, now(),
                          now() + interval '1 h', 9, 9, 9, 9, 9 FROM new
               ), waiting AS (
                   INSERT INTO ready (pool, tenant, rank, seq, run_id)
                   SELECT 'count', tenant, 0, seq, run_id FROM new
               ), named AS (
                   INSERT INTO tenant AS t (tenant, queued) SELECT tenant, count(*) FROM new GROUP BY tenant
                   ON CONFLICT (tenant) DO UPDATE SET queued = t.queued + excluded.queued
               )
               INSERT INTO tenant_pool AS p (pool, tenant, ready)
               SELECT 'count', tenant, count(*) FROM new GROUP BY tenant
               ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready""",
            tenants,
            runs,
            timeout=FILL_TIMEOUT_S,
        )
    async with db.connection() as connection:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("VACUUM ANALYZE", timeout=FILL_TIMEOUT_S)
        await connection.execute("RESET statement_timeout")


# Each query names what contradicts something else; a sound ledger answers none of them.
_CONTRADICTIONS = {
    "in_flight is not the count of leases": """
        SELECT t.tenant FROM tenant t
        WHERE t.in_flight <> (SELECT count(*) FROM lease l WHERE l.tenant = t.tenant)""",
    "queued is not the count of queued runs": """
        SELECT t.tenant FROM tenant t WHERE t.queued <>
            (SELECT count(*) FROM run_state s WHERE s.tenant = t.tenant AND s.status = 1)""",
    "a pool's ready is not the count of its rows": """
        SELECT p.pool FROM tenant_pool p WHERE p.ready <>
            (SELECT count(*) FROM ready r WHERE (r.pool, r.tenant) = (p.pool, p.tenant))""",
    "a ready run has no pool row": """
        SELECT r.run_id FROM ready r WHERE NOT EXISTS
            (SELECT FROM tenant_pool p WHERE (r.pool, r.tenant) = (p.pool, p.tenant))""",
    "capped does not mirror the cap": """
        SELECT p.pool FROM tenant_pool p JOIN tenant t USING (tenant)
        WHERE p.capped <> (t.in_flight >= t.max_in_flight)""",
    "an intent has more in flight than its cap, or leases that do not count": """
        SELECT t.tenant, c.intent FROM tenant t
        CROSS JOIN LATERAL jsonb_each_text(t.intent_caps) AS c (intent, most)
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, count(l.capped_intent) AS marked FROM lease l JOIN run r USING (run_id)
            WHERE l.tenant = t.tenant AND r.intent = c.intent) h
        WHERE h.n > c.most::int OR h.marked <> h.n""",
    "a user's leases do not count against his cap": """
        SELECT l.run_id FROM lease l JOIN run r USING (run_id) JOIN tenant t ON t.tenant = l.tenant
        WHERE l.capped_user IS DISTINCT FROM
            CASE WHEN num_nonnulls(t.user_cap, t.user_caps) > 0 THEN nullif(r.user_id, '') END""",
    "a user has room that no ready run of his would take, though some are throttled": """
        SELECT w.tenant, w.user_id, w.pool
        FROM (SELECT DISTINCT tenant, user_id, pool FROM throttled) w JOIN tenant t ON t.tenant = w.tenant
        WHERE (SELECT count(*) FROM lease l WHERE (l.tenant, l.capped_user) = (w.tenant, w.user_id))
            + (SELECT count(*) FROM ready q JOIN run r USING (run_id)
               WHERE (q.pool, q.tenant, r.user_id) = (w.pool, w.tenant, w.user_id))
            < coalesce((t.user_caps ->> w.user_id)::int, t.user_cap, 1000000)""",
    "a throttled run is another user's, or nobody looks at its user again": """
        SELECT w.run_id FROM throttled w LEFT JOIN run r USING (run_id) LEFT JOIN throttled_user u
            ON (u.tenant, u.user_id) = (w.tenant, w.user_id)
        WHERE u.user_id IS NULL OR r.user_id IS DISTINCT FROM w.user_id""",
    "a queued run waits nowhere, or twice": """
        SELECT s.run_id FROM run_state s
        CROSS JOIN LATERAL (SELECT
            (SELECT count(*) FROM ready r WHERE r.run_id = s.run_id)
            + (SELECT count(*) FROM throttled w WHERE w.run_id = s.run_id) AS ready,
            (SELECT count(*) FROM blocked b WHERE b.run_id = s.run_id) AS blocked,
            (SELECT count(*) FROM timer t WHERE t.run_id = s.run_id AND t.kind = 2) AS delayed) w
        WHERE CASE WHEN s.status = 1 THEN NOT (ready + blocked = 1 AND (ready = 0 OR delayed = 0)
                                               OR ready + blocked = 0 AND delayed = 1)
              ELSE ready + blocked + delayed > 0 END""",
    "a leased run has no lease, or another epoch's": """
        SELECT s.run_id FROM run_state s LEFT JOIN lease l USING (run_id)
        WHERE (s.status IN (2, 4)) <> (l.run_id IS NOT NULL) OR l.epoch <> s.epoch""",
    "a lease belongs to no session": """
        SELECT l.run_id FROM lease l LEFT JOIN runner_session r USING (session_id)
        WHERE r.session_id IS NULL""",
    "an ended run has no outcome, or a living one has": """
        SELECT s.run_id FROM run_state s LEFT JOIN run_outcome o USING (run_id)
        WHERE (s.status >= 5) <> (o.run_id IS NOT NULL) OR o.status <> s.status
           OR (s.status >= 5) <> (s.end_time IS NOT NULL)""",
    "a living run has no deadline": """
        SELECT s.run_id FROM run_state s
        WHERE (s.status < 5) <> EXISTS (SELECT FROM timer t WHERE t.run_id = s.run_id AND t.kind = 1)""",
    "a deadline's timer is before the deadline": """
        SELECT s.run_id FROM run_state s JOIN timer t USING (run_id)
        WHERE s.status < 5 AND t.kind = 1 AND t.due_time < s.deadline_time""",
    "a run that was handed off may be so again": """
        SELECT s.run_id FROM run_state s JOIN handoff h USING (run_id) WHERE s.handed_off""",
    "a lane is held by a run that has ended": """
        SELECT l.holder FROM lane l JOIN run_state s ON s.run_id = l.holder
        WHERE s.status >= 5 OR s.ordering_key <> l.ordering_key""",
    "a living run of a key neither holds its lane nor waits for it": """
        SELECT s.run_id FROM run_state s WHERE s.status < 5 AND s.ordering_key <> '' AND
            (EXISTS (SELECT FROM lane l WHERE l.holder = s.run_id)) =
            (EXISTS (SELECT FROM blocked b WHERE b.run_id = s.run_id))""",
    "a run waits behind nobody": """
        SELECT b.run_id FROM blocked b WHERE NOT EXISTS
            (SELECT FROM lane l WHERE (l.tenant, l.ordering_key) = (b.tenant, b.ordering_key))""",
    "a run's mail is not what waits for it": """
        SELECT s.run_id FROM run_state s CROSS JOIN LATERAL (
            SELECT count(*) AS n, coalesce(sum(m.size), 0) AS bytes, coalesce(max(m.sequence), 0) AS last
            FROM mailbox m WHERE m.run_id = s.run_id AND NOT m.consumed) w
        WHERE (s.mail_waiting, s.mail_bytes) <> (w.n, w.bytes) OR w.last > s.mail_last""",
    "an ended run has a mailbox": """
        SELECT s.run_id FROM run_state s JOIN mailbox m USING (run_id) WHERE s.status >= 5""",
    "a signal that was consumed is kept whole": """
        SELECT m.run_id FROM mailbox m WHERE m.consumed AND m.payload <> ''""",
    "what a run has lent is not what its children were": """
        SELECT s.run_id FROM run_state s CROSS JOIN LATERAL (
            SELECT coalesce(sum(c.lent_steps), 0) AS steps, coalesce(sum(c.lent_tools), 0) AS tools,
                   coalesce(sum(c.lent_tokens), 0) AS tokens
            FROM child c WHERE c.lender = s.run_id) l
        WHERE (s.lent_steps, s.lent_tools, s.lent_tokens) <> (l.steps, l.tools, l.tokens)""",
    "an ended run is still lent something": """
        SELECT s.run_id FROM run_state s JOIN child c USING (run_id) WHERE s.status >= 5""",
    "what is lent is not what the child may spend": """
        SELECT s.run_id FROM run_state s JOIN child c USING (run_id)
        WHERE (s.max_steps, s.max_tools, s.max_tokens) <> (c.lent_steps, c.lent_tools, c.lent_tokens)
              AND s.undoing IS NULL""",
    "a child of an ended run goes on unasked": """
        SELECT s.run_id FROM run_state s JOIN child c USING (run_id)
        JOIN run_state p ON p.run_id = c.parent_run_id
        WHERE p.status >= 5 AND c.on_parent_end = 1 AND NOT s.cancel_requested""",
    "something is left of a run that is gone": """
        SELECT run_id FROM (
            SELECT run_id FROM run UNION SELECT run_id FROM run_outcome UNION SELECT run_id FROM idempotency
            UNION SELECT run_id FROM transcript UNION SELECT run_id FROM checkpoint
            UNION SELECT run_id FROM approval UNION SELECT run_id FROM handoff) r
        WHERE NOT EXISTS (SELECT FROM run_state s WHERE s.run_id = r.run_id)""",
    "a transcript has a gap": """
        SELECT run_id FROM (
            SELECT run_id, first_sequence,
                   lag(last_sequence, 1, 0::bigint)
                       OVER (PARTITION BY run_id ORDER BY first_sequence) AS before
            FROM transcript) t WHERE first_sequence <> before + 1""",
    "a transcript does not end where its run says": """
        SELECT s.run_id FROM run_state s WHERE s.last_sequence <>
            (SELECT max(t.last_sequence) FROM transcript t WHERE t.run_id = s.run_id)""",
}


async def contradictions(db: Database) -> list[str]:
    """Hold the ledger's rows against each other; name what does not agree."""
    async with db.connection() as connection:
        return [name for name, query in _CONTRADICTIONS.items() if await connection.fetch(query)]
