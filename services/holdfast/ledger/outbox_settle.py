"""What came of calls is written for many at once, each only while its lease is the effect's.

In one transaction the lease goes, the effect is delivered, due again or set aside (and an alert of it is
staged), its attempt joins the history, the next of its order is due, and the breaker hears of it; what was
delivered and moves nothing else takes one statement. Lock order: destination_state (only where the breaker
may change), effect_lane, then the rest.
"""

import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from holdfast.kit.db import Database
from holdfast.ledger import alert
from holdfast.ledger.destination import breaker_of
from holdfast.ledger.domain.breaker import Breaker, BreakerPolicy, BreakerState
from holdfast.ledger.domain.delivery import BreakerVote, EffectStatus, Verdict
from holdfast.ledger.values import Failure

Judge = Callable[[Breaker, BreakerPolicy, Sequence[BreakerVote], datetime], Breaker]
"""Says where a breaker stands after calls that ended in this order, by the database's clock."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of one lease. `called` is False if no call was made: then no attempt is recorded.

    `unsure` says that the destination may have the effect from a call whose outcome nobody knows.
    """

    effect_id: uuid.UUID
    epoch: int
    destination_id: int
    ordering_key: str
    verdict: Verdict
    vote: BreakerVote
    probe: bool = False
    called: bool = True
    http_status: int = 0
    failure: Failure | None = None
    duration_s: float = 0.0
    unsure: bool = False


_LOCK_BREAKERS: Final = """
-- Lock destinations whose breaker may change: those that failed, and those not calm.
SELECT s.destination_id FROM destination_state s
WHERE s.destination_id = ANY ($1::bigint[])
  AND (s.destination_id = ANY ($2::bigint[]) OR s.breaker <> 1 OR s.failures > 0)
ORDER BY s.destination_id FOR UPDATE
"""

_READ_BREAKERS: Final = """
SELECT s.destination_id, s.breaker, s.failures, s.open_time, s.probe_time, d.breaker_failures,
       d.breaker_reset_ms * interval '1 millisecond' AS reset_after, statement_timestamp() AS now
FROM destination_state s JOIN destination d USING (destination_id)
WHERE s.destination_id = ANY ($1::bigint[])
"""

_WRITE_BREAKERS: Final = """
UPDATE destination_state s
SET breaker = n.breaker, failures = n.failures, open_time = n.open_time, probe_time = n.probe_time
FROM unnest($1::bigint[], $2::smallint[], $3::integer[], $4::timestamptz[], $5::timestamptz[])
    AS n (destination_id, breaker, failures, open_time, probe_time)
WHERE s.destination_id = n.destination_id
"""

LOCK_LANES: Final = """
-- Lock lanes before looking who is next in them.
SELECT lane.head FROM unnest($1::bigint[], $2::text[]) AS asked (destination_id, ordering_key)
JOIN effect_lane lane
  ON lane.destination_id = asked.destination_id AND lane.ordering_key = asked.ordering_key
ORDER BY lane.destination_id, lane.ordering_key FOR UPDATE OF lane
"""

FENCE: Final = "AND l.epoch = g.epoch AND l.session_id IS NOT DISTINCT FROM $1"
"""Not `=`, by which the planner goes through all that the session holds, once for each that is given."""


def _ended(fence: str) -> str:
    """Return what ends leases and writes what came of them, for a WITH."""
    return f"""given AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::smallint[], $5::integer[], $6::integer[], $7::float8[],
                         $8::boolean[], $9::smallint[], $10::jsonb[], $11::bigint[], $12::boolean[])
        AS t (effect_id, epoch, status, attempts, spent, delay_s, called, http_status, failure, duration_ms,
              unsure)
), gone AS (
    DELETE FROM effect_lease l USING given g WHERE l.effect_id = g.effect_id {fence}
    RETURNING g.*, l.destination_id, l.ordering_key, l.seq,
              statement_timestamp() + make_interval(secs => g.delay_s) AS due_time
), written AS (
    UPDATE effect e
    SET status = g.status, attempts = g.attempts, unsure = g.unsure,
        next_attempt_time = CASE WHEN g.status = 1 THEN g.due_time END,
        deliver_time = CASE WHEN g.status = 3 THEN statement_timestamp() END,
        last_failure = coalesce(g.failure, e.last_failure)
    FROM gone g WHERE e.effect_id = g.effect_id
), history AS (
    INSERT INTO effect_attempt (effect_id, number, attempt_time, http_status, failure, duration_ms)
    SELECT effect_id, attempts, statement_timestamp() - duration_ms * interval '1 millisecond', http_status,
           failure, duration_ms
    FROM gone WHERE called
    ON CONFLICT DO NOTHING
)"""  # noqa: S608 - composed of our own constants


def statement(fence: str) -> str:
    """Return the statement that settles leases; `fence` keeps out who no longer holds them."""
    return f"""
-- End leases, and write where their effects go; those whose lease is another's are missing from the result.
WITH {_ended(fence)}, again AS (
    INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key, attempts, spent)
    SELECT destination_id, due_time, seq, effect_id, ordering_key, attempts, spent
    FROM gone WHERE status = 1
), left_lanes AS (
    SELECT destination_id, ordering_key FROM gone WHERE status <> 1 AND ordering_key <> ''
), {PROMOTE}
SELECT effect_id FROM gone
"""  # noqa: S608 - composed of our own constants


PROMOTE: Final = """
next AS MATERIALIZED (
    SELECT lane.destination_id, lane.ordering_key, w.seq, w.effect_id, w.attempts,
           greatest(w.not_before, statement_timestamp()) AS due_time
    FROM left_lanes lane LEFT JOIN LATERAL (
        SELECT seq, effect_id, not_before, attempts FROM effect_waiting
        WHERE destination_id = lane.destination_id AND ordering_key = lane.ordering_key
        ORDER BY seq LIMIT 1) w ON true
), entered AS (
    DELETE FROM effect_waiting w USING next n
    WHERE w.destination_id = n.destination_id AND w.ordering_key = n.ordering_key AND w.seq = n.seq
), due AS (
    INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key, attempts)
    SELECT destination_id, due_time, seq, effect_id, ordering_key, attempts FROM next
    WHERE effect_id IS NOT NULL
), timed AS (
    UPDATE effect e SET next_attempt_time = n.due_time FROM next n WHERE e.effect_id = n.effect_id
), headed AS (
    UPDATE effect_lane lane SET head = n.effect_id FROM next n
    WHERE lane.destination_id = n.destination_id AND lane.ordering_key = n.ordering_key
      AND n.effect_id IS NOT NULL
), emptied AS (
    DELETE FROM effect_lane lane USING next n
    WHERE lane.destination_id = n.destination_id AND lane.ordering_key = n.ordering_key
      AND n.effect_id IS NULL
)
"""
"""Makes the next of each lane in `left_lanes` due, or ends the lane; its row is locked before."""

_SETTLE = statement(FENCE)

_SETTLE_PLAIN: Final = f"""
-- End leases of effects that were delivered, in no order; say whose breaker is to hear of it.
WITH {_ended(FENCE)}
SELECT gone.effect_id, s.breaker <> 1 OR s.failures > 0 AS heard
FROM gone JOIN destination_state s ON s.destination_id = gone.destination_id
"""  # noqa: S608 - composed of our own constants


async def settle(
    db: Database, session_id: uuid.UUID, settlements: Sequence[Settlement], judge: Judge
) -> set[uuid.UUID]:
    """Write what came of leases, and return the effects for which it was written.

    The others are no longer leased to this session under this epoch: what came of their calls is refused, and
    someone else's outcome stands. Repeatable in effect: a second time nothing is leased any more.
    """

    async def whole() -> set[uuid.UUID]:
        async with db.transaction() as connection:
            return await settle_in(connection, session_id, settlements, judge)

    async def plain() -> set[uuid.UUID]:
        return await _settle_plain(db, session_id, settlements, judge)

    if not settlements:
        return set()
    return await db.retrying(plain if all(map(_is_plain, settlements)) else whole)


def _is_plain(settlement: Settlement) -> bool:
    """Say whether an effect was delivered, and nothing else can come of that."""
    return (
        settlement.verdict.status is EffectStatus.DELIVERED
        and not settlement.ordering_key
        and not settlement.probe
        and settlement.vote is not BreakerVote.FAILS
    )


async def _settle_plain(
    db: Database, session_id: uuid.UUID, settlements: Sequence[Settlement], judge: Judge
) -> set[uuid.UUID]:
    """Settle effects that were delivered, by one statement that is its own transaction.

    A breaker that has counted failures hears of it in another; it forgets none of them if that is lost.
    """
    async with db.connection() as connection:
        rows = await connection.fetch(_SETTLE_PLAIN, session_id, *_columns(settlements))
    stirred = {row["effect_id"] for row in rows if row["heard"]}
    if stirred:
        telling = [s for s in settlements if s.effect_id in stirred]
        async with db.transaction() as connection:
            locked = await connection.fetch(_LOCK_BREAKERS, list({s.destination_id for s in telling}), [])
            await _tell_breakers(connection, [row[0] for row in locked], telling, judge)
    return {row["effect_id"] for row in rows}


async def settle_in(
    connection: Any, session_id: uuid.UUID, settlements: Sequence[Settlement], judge: Judge
) -> set[uuid.UUID]:
    """Do the work of `settle` within the caller's transaction."""
    voting = {s.destination_id for s in settlements if s.vote is not BreakerVote.ABSTAINS}
    failing = {s.destination_id for s in settlements if s.vote is BreakerVote.FAILS}
    locked = (
        [row[0] for row in await connection.fetch(_LOCK_BREAKERS, list(voting), list(failing))]
        if voting
        else []
    )
    lanes = sorted({(s.destination_id, s.ordering_key) for s in settlements if _leaves_lane(s)})
    if lanes:
        await connection.fetch(LOCK_LANES, [d for d, _ in lanes], [key for _, key in lanes])
    settled = {row[0] for row in await connection.fetch(_SETTLE, session_id, *_columns(settlements))}
    if locked:
        await _tell_breakers(connection, locked, [s for s in settlements if s.effect_id in settled], judge)
    await alert.effects_dead_lettered(
        connection,
        [
            s.effect_id
            for s in settlements
            if s.effect_id in settled and s.verdict.status is EffectStatus.DEAD_LETTERED
        ],
    )
    return settled


def _leaves_lane(settlement: Settlement) -> bool:
    return bool(settlement.ordering_key) and settlement.verdict.status is not EffectStatus.PENDING


def _columns(settlements: Sequence[Settlement]) -> list[list[Any]]:
    return [
        [s.effect_id for s in settlements],
        [s.epoch for s in settlements],
        [int(s.verdict.status) for s in settlements],
        [s.verdict.attempts for s in settlements],
        [s.verdict.spent for s in settlements],
        [s.verdict.delay_s for s in settlements],
        [s.called for s in settlements],
        [s.http_status for s in settlements],
        [s.failure.to_json() if s.failure else None for s in settlements],
        [round(s.duration_s * 1000) for s in settlements],
        [s.unsure for s in settlements],
    ]


async def _tell_breakers(
    connection: Any, locked: Sequence[int], settlements: Sequence[Settlement], judge: Judge
) -> None:
    """Let the votes of calls move the locked breakers; about a half-open one only its probe votes."""
    votes: dict[int, list[Settlement]] = defaultdict(list)
    for settlement in settlements:
        votes[settlement.destination_id].append(settlement)
    changed: list[tuple[int, Breaker]] = []
    for row in await connection.fetch(_READ_BREAKERS, locked):
        before = breaker_of(row)
        half_open = before.state is BreakerState.HALF_OPEN
        heard = [s.vote for s in votes[row["destination_id"]] if s.probe or not half_open]
        policy = BreakerPolicy(row["breaker_failures"], row["reset_after"])
        after = judge(before, policy, heard, row["now"])
        if after != before:
            changed.append((row["destination_id"], after))
    if changed:
        await connection.execute(
            _WRITE_BREAKERS,
            [destination_id for destination_id, _ in changed],
            [int(breaker.state) for _, breaker in changed],
            [breaker.failures for _, breaker in changed],
            [breaker.open_time for _, breaker in changed],
            [breaker.probe_time for _, breaker in changed],
        )
