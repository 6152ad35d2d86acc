"""A dispatcher takes effects that are due, as many as the breaker and limits of each destination allow.

The lock on a destination's state makes its claims one after another; a destination another dispatcher is
claiming from is passed over. Cost does not depend on how many effects wait: destinations with due effects
are found by jumping through the index, the walk goes on where the last one ended, and of each destination
only the first rows are read.
"""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from holdfast.kit.db import Database
from holdfast.ledger.destination import Destination, breaker_of, destination_of
from holdfast.ledger.domain.breaker import BreakerState, Load, Permission, permit
from holdfast.ledger.domain.retry_budget import RetryBudget
from holdfast.ledger.outbox_session import unknown

WALK: Final = 128
"""How many destinations one claim passes at most."""
_FEWEST: Final = 8
_MOST: Final = 64  # destinations locked by one claim: more than a few of them give enough work


@dataclass(frozen=True, slots=True)
class Delivery:
    """An effect leased to a dispatcher under an epoch; sent `starts_in_s` from now at the earliest.

    `attempts` is how often it was sent before, `spent` how many of these count. A `probe` decides about its
    destination's breaker. It is `unsure` if a call was made before of which nobody knows what came.
    """

    effect_id: uuid.UUID
    epoch: int
    destination: Destination
    run_id: uuid.UUID | None
    step: str
    idempotency_key: str
    ordering_key: str
    traceparent: str
    correlation_id: str
    body: bytes
    attempts: int
    spent: int
    probe: bool
    starts_in_s: float
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim got. The next one starts after `last_destination`.

    `contended`: a destination was passed over since another dispatcher held it, so nothing is not "nothing
    there". `wait_s`: the soonest that more falls due among the destinations looked at, as far as is known.
    """

    deliveries: Sequence[Delivery]
    last_destination: int
    contended: bool
    wait_s: float | None


_WALK: Final = """
-- Keep a session from being swept while leases are given to it, and say whether it lives; find destinations
-- with pending effects, each with the first time one falls due.
WITH RECURSIVE alive AS MATERIALIZED (
    SELECT FROM dispatcher_session
    WHERE session_id = $3 AND expire_time > clock_timestamp() FOR KEY SHARE
), walk AS (
    (SELECT destination_id, due_time FROM effect_due
     WHERE destination_id > $1 ORDER BY destination_id, due_time LIMIT 1)
    UNION ALL
    SELECT next.destination_id, next.due_time
    FROM walk CROSS JOIN LATERAL (
        SELECT d.destination_id, d.due_time FROM effect_due d
        WHERE d.destination_id > walk.destination_id ORDER BY d.destination_id, d.due_time LIMIT 1) next
)
SELECT session.alive, found.destination_id,
       extract(epoch FROM found.due_time - statement_timestamp())::float8 AS due_in
FROM (SELECT EXISTS (SELECT FROM alive) AS alive) session
LEFT JOIN (SELECT * FROM walk LIMIT $2) found ON true
"""

_LOCK: Final = """
-- Lock destinations for a claim, all but those another dispatcher has locked.
SELECT s.destination_id FROM destination_state s WHERE s.destination_id = ANY ($1::bigint[])
ORDER BY s.destination_id FOR UPDATE SKIP LOCKED
"""

_LOOK: Final = """
-- See how locked destinations stand; a statement of its own, for a lock does not refresh what was read.
SELECT d.destination_id, d.tenant, d.name, d.url, d.secret_name, d.headers, d.max_concurrent,
       d.max_per_second, d.timeout_ms, d.max_attempts, d.initial_backoff_ms, d.max_backoff_ms,
       d.delivery_mode, d.breaker_failures, d.breaker_reset_ms, d.status_url, d.max_retries_per_second,
       s.breaker, s.failures, s.open_time, s.probe_time, s.next_call_time, s.next_retry_time,
       statement_timestamp() AS now, held.in_flight, held.probing
FROM destination_state s
JOIN destination d USING (destination_id)
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS in_flight, coalesce(bool_or(l.probe), false) AS probing
    FROM effect_lease l WHERE l.destination_id = s.destination_id) held
WHERE s.destination_id = ANY ($1::bigint[])
ORDER BY s.destination_id
"""

_TAKE: Final = """
-- Lease the first effects that are due of each destination, as many as it is allowed; of those that failed
-- before, what is over the budget for sending again is put off instead, each a little longer than the last.
WITH allowed AS (
    SELECT * FROM unnest($2::bigint[], $3::integer[], $4::boolean[], $5::integer[], $6::float8[])
        AS t (destination_id, calls, probe, retries, apart_s)
), picked AS MATERIALIZED (
    SELECT first.*, a.probe, a.apart_s,
           CASE WHEN first.spent > 0 AND NOT a.probe
                THEN count(*) FILTER (WHERE first.spent > 0)
                         OVER (PARTITION BY a.destination_id ORDER BY first.due_time, first.seq) - a.retries
                ELSE 0 END AS over
    FROM allowed a CROSS JOIN LATERAL (
        SELECT d.destination_id, d.due_time, d.seq, d.spent FROM effect_due d
        WHERE d.destination_id = a.destination_id AND d.due_time <= statement_timestamp()
        ORDER BY d.due_time, d.seq LIMIT a.calls FOR UPDATE SKIP LOCKED) first
), gone AS (
    DELETE FROM effect_due d USING picked p
    WHERE d.destination_id = p.destination_id AND d.due_time = p.due_time AND d.seq = p.seq
    RETURNING d.*, p.probe, p.over,
              statement_timestamp() + make_interval(secs => greatest(0.05, p.over * p.apart_s)) AS put_off_to
), again AS (
    INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key, attempts, spent)
    SELECT destination_id, put_off_to, seq, effect_id, ordering_key, attempts, spent FROM gone WHERE over > 0
), timed AS (
    UPDATE effect e SET next_attempt_time = g.put_off_to FROM gone g
    WHERE e.effect_id = g.effect_id AND g.over > 0
), leased AS (
    INSERT INTO effect_lease (effect_id, destination_id, session_id, tenant, seq, ordering_key, attempts,
                              spent, probe)
    SELECT g.effect_id, g.destination_id, $1, e.tenant, g.seq, g.ordering_key, g.attempts, g.spent, g.probe
    FROM gone g JOIN effect e USING (effect_id) WHERE g.over <= 0
    RETURNING *
)
SELECT l.effect_id, l.epoch, l.destination_id, l.attempts, l.spent, l.probe, l.ordering_key, e.run_id,
       e.step, e.idempotency_key, e.traceparent, e.correlation_id, e.body, e.unsure
FROM leased l JOIN effect e USING (effect_id)
ORDER BY l.destination_id, l.seq
"""

_NOTE: Final = """
-- Note what a claim changes of destinations: a probe half-opens the breaker, calls use up the rate, and what
-- is sent again its budget.
UPDATE destination_state s
SET breaker = CASE WHEN n.probe THEN 3 ELSE s.breaker END,
    next_call_time = CASE WHEN n.busy_s > 0 THEN statement_timestamp() + make_interval(secs => n.busy_s)
                          ELSE s.next_call_time END,
    next_retry_time = coalesce(n.next_retry_time, s.next_retry_time)
FROM unnest($1::bigint[], $2::boolean[], $3::float8[], $4::timestamptz[])
    AS n (destination_id, probe, busy_s, next_retry_time)
WHERE s.destination_id = n.destination_id
"""


async def claim(db: Database, session_id: uuid.UUID, *, wanted: int, after_destination: int = 0) -> Claimed:
    """Lease up to `wanted` due effects to a dispatcher's session, spread over destinations.

    Not repeatable: each call leases more. A crash of the caller leaves leases that a sweep frees when its
    session expires. Locks the session and destination_state. Raises `SessionUnknown` if the session is over.
    """

    async def once() -> Claimed:
        async with db.transaction() as connection:
            return await _claim(connection, session_id, wanted, after_destination)

    return await db.retrying(once)


async def _claim(connection: Any, session_id: uuid.UUID, wanted: int, after: int) -> Claimed:
    walked = await _walk(connection, session_id, after)
    waits = [row["due_in"] for row in walked if row["due_in"] > 0]
    last = walked[-1]["destination_id"] if len(walked) == WALK else 0  # else it has come round
    due = [row["destination_id"] for row in walked if row["due_in"] <= 0]
    if len(due) > (most := max(_FEWEST, min(wanted, _MOST))):
        due = due[:most]
        last = due[-1]
    if not due:
        return Claimed((), last, contended=False, wait_s=min(waits, default=None))
    locked = [row["destination_id"] for row in await connection.fetch(_LOCK, due)]
    looked = await connection.fetch(_LOOK, locked) if locked else []
    allowed = _share(looked, wanted, waits)
    deliveries = await _take(connection, session_id, looked, allowed) if allowed else ()
    return Claimed(deliveries, last, len(locked) < len(due), min(waits, default=None))


async def _walk(connection: Any, session_id: uuid.UUID, after: int) -> list[Any]:
    """Look at the next destinations, from the first again after the last. Raises `SessionUnknown`."""
    rows = await _walk_from(connection, session_id, after, WALK)
    if after and len(rows) < WALK:
        start = await _walk_from(connection, session_id, 0, WALK - len(rows))
        rows += [row for row in start if row["destination_id"] <= after]
    return rows


async def _walk_from(connection: Any, session_id: uuid.UUID, after: int, most: int) -> list[Any]:
    rows = await connection.fetch(_WALK, after, most, session_id)
    if not rows[0]["alive"]:
        raise unknown(session_id)
    return [row for row in rows if row["destination_id"] is not None]


def _share(looked: Sequence[Any], wanted: int, waits: list[float]) -> dict[int, Permission]:
    """Give each destination its share of what is wanted; what one may not use goes to the next ones."""
    allowed: dict[int, Permission] = {}
    left = wanted
    for behind, row in enumerate(looked):
        share = -(-left // (len(looked) - behind))
        breaker = breaker_of(row)
        load = Load(
            in_flight=row["in_flight"],
            probing=row["probing"],
            max_concurrent=row["max_concurrent"],
            max_per_second=row["max_per_second"],
            next_call_time=row["next_call_time"],
        )
        permission = permit(breaker, load, wanted=share, now=row["now"])
        if permission.calls:
            allowed[row["destination_id"]] = permission
            left -= permission.calls
        elif (until := _opens(row)) is not None:
            waits.append(until)
    return allowed


def _opens(row: Any) -> float | None:
    """Say in how many seconds a destination that allows no call now will: its probe, or its rate."""
    now: datetime = row["now"]
    if row["breaker"] == BreakerState.OPEN and row["probe_time"] is not None:
        return max(0.0, float((row["probe_time"] - now).total_seconds()))
    if row["max_per_second"] > 0 and row["next_call_time"] > now:
        return max(0.05, float((row["next_call_time"] - now).total_seconds()) - 0.25)
    return None  # a call under way has to end first


async def _take(
    connection: Any, session_id: uuid.UUID, looked: Sequence[Any], allowed: Mapping[int, Permission]
) -> list[Delivery]:
    ids = list(allowed)
    now = {row["destination_id"]: row["now"] for row in looked}
    budgets = {
        row["destination_id"]: RetryBudget(row["max_retries_per_second"], row["next_retry_time"])
        for row in looked
    }
    rows = await connection.fetch(
        _TAKE,
        session_id,
        ids,
        [allowed[i].calls for i in ids],
        [allowed[i].probe for i in ids],
        [budgets[i].left(now[i]) for i in ids],
        [budgets[i].apart.total_seconds() for i in ids],
    )
    destinations = {row["destination_id"]: destination_of(row) for row in looked}
    taken = Counter[int]()
    deliveries = []
    for row in rows:
        to = row["destination_id"]
        starts_in = allowed[to].first_in + taken[to] * allowed[to].apart
        deliveries.append(_delivery(row, destinations[to], starts_in.total_seconds()))
        taken[to] += 1
    again = Counter[int](row["destination_id"] for row in rows if row["spent"] and not row["probe"])
    noted = [to for to in taken if allowed[to].probe or allowed[to].apart or again[to]]
    if noted:
        busy = [(allowed[to].first_in + taken[to] * allowed[to].apart).total_seconds() for to in noted]
        used = [budgets[to].after(again[to], now[to]) if again[to] else None for to in noted]
        await connection.execute(_NOTE, noted, [allowed[to].probe for to in noted], busy, used)
    return deliveries


def _delivery(row: Any, destination: Destination, starts_in_s: float) -> Delivery:
    return Delivery(
        effect_id=row["effect_id"],
        epoch=row["epoch"],
        destination=destination,
        run_id=row["run_id"],
        step=row["step"],
        idempotency_key=row["idempotency_key"],
        ordering_key=row["ordering_key"],
        traceparent=row["traceparent"],
        correlation_id=row["correlation_id"],
        body=row["body"],
        attempts=row["attempts"],
        spent=row["spent"],
        probe=row["probe"],
        starts_in_s=starts_in_s,
        unsure=row["unsure"],
    )
