"""What an Invoker does for a batch, one step after the other: start a chunk of items, pause, finish, clear.

A chunk is admitted and its items moved in one transaction, so an item has a run or waits, never both; the end
of the run moves it on in the transaction that ends the run. Wherever everything stops, it goes on from there.

What costs time without needing the tenant's lock, payloads and envelopes, is made before it is taken; what
was prepared and is no longer due then is left.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import QueueFull, RateLimited
from holdfast.ledger import batch
from holdfast.ledger.admission import Placements, admit_within, lock_queues
from holdfast.ledger.domain.batch import (
    CHUNK,
    Admit,
    BatchStatus,
    Clear,
    Finish,
    ItemStatus,
    Pause,
    Rest,
    Standing,
    Tolerance,
    light_intent,
    next_step,
)
from holdfast.ledger.domain.budget import Limits
from holdfast.ledger.values import Admitted, Failure, Invocation, Leased, Refused, limits_of


@dataclass(frozen=True, slots=True)
class Due:
    """An item that is to be started, for the `attempt`th time; if light perhaps `alone`."""

    index: int
    attempt: int
    payload: bytes
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Items of one batch that are to be started, and what their runs are made of.

    `light` are the versions of code whose runners execute many items with one run;
    `defaults` are the tenant's limits.
    """

    tenant: str
    batch_id: UUID
    spec: bytes
    priority: int
    max_parallelism: int
    defaults: Limits
    light: frozenset[str]
    items: Sequence[Due]


@dataclass(frozen=True, slots=True)
class Active:
    """A batch for which something may be to be done."""

    batch_id: UUID
    tenant: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The envelope of a run with the item that it executes, or the light ones."""

    items: Sequence[Due]
    invocation: Invocation
    light: bool = False


@dataclass(slots=True)
class Advanced:
    """What was done: items moved, runs leased at once, pools in which others wait.

    `again` says that more can be done now, `wait_s` in how many seconds an item is due again if nothing else
    comes before, `rests` that the batch needs nobody any more; `in_flight` counts its items that have a run.
    """

    items: int = 0
    leases: list[Leased] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    in_flight: int = 0
    again: bool = False
    wait_s: float | None = None
    rests: bool = False


Compose = Callable[[Work], list[Prepared]]
"""Makes the envelopes of items' runs."""

Reserve = Callable[[Sequence[Invocation]], Placements]
"""Says which runners could take these runs at once."""

_ACTIVE: Final = """
SELECT batch_id, tenant FROM batch_active WHERE batch_id > $1 ORDER BY batch_id LIMIT $2
"""
_LOOK: Final = """
SELECT b.*, (SELECT jsonb_object_agg(status, n)::text FROM batch_count c WHERE c.batch_id = $1) AS counts
FROM batch b WHERE b.batch_id = $1 AND b.tenant = $2
"""
_LOCK: Final = f"{_LOOK} FOR NO KEY UPDATE OF b"
_LEAVE: Final = "DELETE FROM batch_active WHERE batch_id = $1"

# Those to be tried again first, by their time, then those never tried, by index; both read the same index.
# Of those that are to be alone one at a time: what kills a runner shall not take others with it.
_DUE: Final = """
(
    SELECT index, attempts, alone FROM batch_item
    WHERE batch_id = $1 AND status = 1 AND alone
          AND (not_before IS NULL OR not_before <= statement_timestamp())
          AND NOT EXISTS (SELECT FROM batch_item r WHERE r.batch_id = $1 AND r.status = 2 AND r.alone)
    ORDER BY index LIMIT 1
) UNION ALL (
    SELECT index, attempts, alone FROM batch_item
    WHERE batch_id = $1 AND status = 1 AND NOT alone AND coalesce(not_before, '-infinity') > '-infinity'
          AND coalesce(not_before, '-infinity') <= statement_timestamp()
    ORDER BY coalesce(not_before, '-infinity'), index LIMIT $2
) UNION ALL (
    SELECT index, attempts, alone FROM batch_item
    WHERE batch_id = $1 AND status = 1 AND NOT alone AND coalesce(not_before, '-infinity') = '-infinity'
    ORDER BY index LIMIT $2
) LIMIT $2
"""
# In order only the first counts, and it holds up those behind it until its time has come.
_FIRST: Final = """
SELECT index, attempts, alone FROM (
    SELECT index, attempts, alone, not_before FROM batch_item
    WHERE batch_id = $1 AND status = 1 ORDER BY index LIMIT least(1, $2::bigint)
) f WHERE not_before IS NULL OR not_before <= statement_timestamp()
"""
# Whether the intent's items are light is its runners' word; while none is there, their last. Sessions and
# versions of intents are few.
_SERVED: Final = """
WITH alive AS MATERIALIZED (
    SELECT served ->> 'intent' AS intent, served ->> 'agent_version' AS agent_version
    FROM runner_session CROSS JOIN jsonb_array_elements(intents) AS served
    WHERE expire_time > statement_timestamp() AND served ->> 'intent' IN ($2, $3)
)
SELECT ARRAY(
           SELECT agent_version FROM alive WHERE intent = $3
           UNION SELECT agent_version FROM served_intent WHERE intent = $3 AND NOT EXISTS (SELECT FROM alive)
       ) AS light, deadline_ms, max_steps, max_tools, max_tokens, max_context
FROM tenant WHERE tenant = $1
"""
_PAYLOADS: Final = "SELECT index, payload FROM batch_input WHERE batch_id = $1 AND index = ANY($2::bigint[])"
_LATER: Final = """
SELECT extract(epoch FROM not_before - clock_timestamp())::float8 FROM batch_item
WHERE batch_id = $1 AND status = 1 AND NOT alone AND coalesce(not_before, '-infinity') > '-infinity'
ORDER BY coalesce(not_before, '-infinity') LIMIT 1
"""

_STARTED: Final = """
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::uuid[], $4::boolean[]) AS u (index, run_id, light)
), flying AS (
    INSERT INTO batch_run (run_id, batch_id, index, light) SELECT run_id, $1, index, light FROM u
), moved AS (
    UPDATE batch_item i
    SET status = 2, attempts = i.attempts + 1, run_id = CASE WHEN NOT u.light THEN u.run_id END, not_before = NULL, failure = NULL,
        update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
)
INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 2, count(*) FROM u
ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
"""

_SKIPPED: Final = """
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::text[]) AS u (index, failure)
), moved AS (
    UPDATE batch_item i SET status = 6, failure = u.failure::jsonb, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
), grouped AS (
    INSERT INTO batch_error AS r (batch_id, reason, n, example_message, example_indexes)
    SELECT $1, failure::jsonb ->> 'reason', count(*), min(failure::jsonb ->> 'message'),
           (array_agg(index ORDER BY index))[:10]
    FROM u GROUP BY failure::jsonb ->> 'reason'
    ON CONFLICT (batch_id, reason) DO UPDATE
    SET n = r.n + excluded.n, example_indexes = (r.example_indexes || excluded.example_indexes)[:10]
)
INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 6, count(*) FROM u
ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
"""

_CLEAR: Final = """
WITH u AS MATERIALIZED (
    SELECT index FROM batch_item WHERE batch_id = $1 AND status = 1 ORDER BY index LIMIT $2
), moved AS (
    UPDATE batch_item i SET status = 13, not_before = NULL, update_time = clock_timestamp()
    FROM u WHERE i.batch_id = $1 AND i.index = u.index
), left_pending AS (
    UPDATE batch_count SET n = n - (SELECT count(*) FROM u) WHERE batch_id = $1 AND status = 1
), counted AS (
    INSERT INTO batch_count AS c (batch_id, status, n) SELECT $1, 13, count(*) FROM u
    ON CONFLICT (batch_id, status) DO UPDATE SET n = c.n + excluded.n
)
SELECT count(*) FROM u
"""
_CLEARED_AT_ONCE: Final = 5000


async def active(connection: Connection, *, after: UUID, limit: int = 100) -> list[Active]:
    """Read batches for which something may be to be done, by id."""
    rows = await connection.fetch(_ACTIVE, after, limit)
    return [Active(row["batch_id"], row["tenant"]) for row in rows]


async def advance(db: Database, which: Active, compose: Compose, reserve: Reserve) -> Advanced:
    """Do the next step for a batch.

    Repeatable, by any number of Invokers at once: each step is decided under the tenant's lock. A crash does
    all of it or nothing.
    """
    prepared = await _prepared(db, which, compose)

    async def once() -> Advanced:
        async with db.transaction() as connection:
            tenants = await lock_queues(connection, {which.tenant})
            row = await connection.fetchrow(_LOCK, which.batch_id, which.tenant)
            return await _step(connection, row, _Ready(prepared, tenants, reserve))

    return await db.retrying(once)


@dataclass(frozen=True, slots=True)
class _Ready:
    """What is at hand to start items: their envelopes, the tenant's locked row, the runners."""

    prepared: Sequence[Prepared]
    tenants: Sequence[Any]
    reserve: Reserve


async def _prepared(db: Database, which: Active, compose: Compose) -> list[Prepared]:
    """Read, without a lock, what would be started now, and make its envelopes."""
    async with db.connection() as connection:
        row = await connection.fetchrow(_LOOK, which.batch_id, which.tenant)
        match next_step(_standing(row)):
            case Admit(items):
                found = await _due(connection, row, items)
            case _:
                return []
        indexes = [item["index"] for item in found]
        payloads = dict(await connection.fetch(_PAYLOADS, which.batch_id, indexes)) if found else {}
        served = await connection.fetchrow(_SERVED, which.tenant, row["intent"], light_intent(row["intent"]))
    items = [
        Due(each["index"], each["attempts"] + 1, payloads[each["index"]], each["alone"]) for each in found
    ]
    work = Work(
        tenant=row["tenant"],
        batch_id=row["batch_id"],
        spec=row["spec"],
        priority=row["priority"],
        max_parallelism=row["max_parallelism"],
        defaults=Limits() if served is None else limits_of(served),
        light=frozenset() if served is None else frozenset(served["light"]),
        items=items,
    )
    return compose(work) if items else []


async def _due(connection: Connection, row: Any, most: int) -> Sequence[Any]:
    found: Sequence[Any] = await connection.fetch(_FIRST if row["in_order"] else _DUE, row["batch_id"], most)
    return found


async def _step(connection: Connection, row: Any, ready: _Ready) -> Advanced:
    standing = _standing(row)
    match next_step(standing):
        case Admit(items):
            done = await _admit(connection, row, items, ready)
            done.in_flight += standing.count(ItemStatus.RUNNING)
            return done
        case Pause(reason):
            await batch.move(connection, row, BatchStatus.PAUSED, reason=reason)
        case Finish(status):
            await batch.move(connection, row, status)
        case Clear():
            return Advanced(await connection.fetchval(_CLEAR, row["batch_id"], _CLEARED_AT_ONCE), again=True)
        case Rest(done=False):
            return Advanced(in_flight=standing.count(ItemStatus.RUNNING))
        case Rest():
            pass
    await connection.execute(_LEAVE, row["batch_id"])
    return Advanced(rests=True)


def _standing(row: Any) -> Standing:
    return Standing(
        status=BatchStatus(row["status"]),
        counts={ItemStatus(int(status)): n for status, n in json.loads(row["counts"] or "{}").items()},
        max_parallelism=row["max_parallelism"],
        in_order=row["in_order"],
        skip_staging=row["skip_staging"],
        tolerance=Tolerance(row["tolerated_items"], row["tolerated_share"]),
        forgiven_skipped=row["forgiven_skipped"],
        forgiven_ended=row["forgiven_ended"],
    )


async def _admit(connection: Connection, row: Any, items: int, ready: _Ready) -> Advanced:
    assert items <= CHUNK
    due = {(item["index"], item["attempts"] + 1) for item in await _due(connection, row, items)}
    if not due:
        return Advanced(wait_s=await connection.fetchval(_LATER, row["batch_id"]))
    going = [
        each for each in ready.prepared if due.issuperset((item.index, item.attempt) for item in each.items)
    ]
    if not going:
        return Advanced(again=True)  # others have started what was prepared
    invocations = [each.invocation for each in going]
    answers = await admit_within(connection, invocations, ready.reserve(invocations), tenants=ready.tenants)
    done = Advanced(again=len(due) == CHUNK)
    started: list[tuple[int, UUID, bool]] = []
    skipped: list[tuple[int, str]] = []
    pools: dict[str, None] = {}
    for each, answer in zip(going, answers, strict=True):
        if isinstance(answer, Admitted) and answer.created:
            started += [(item.index, answer.run_id, each.light) for item in each.items]
            if answer.lease is None:
                pools[answer.pool] = None
            else:
                done.leases.append(answer.lease)
        elif isinstance(answer, Refused) and isinstance(answer.fault, QueueFull | RateLimited):
            done.again = False  # it waits here instead of there
        else:
            failure = Failure("IDEMPOTENCY_KEY_REUSED", "A run of someone else's has the item's key.")
            skipped += [(item.index, failure.to_json()) for item in each.items]
    if started:
        await connection.execute(_STARTED, row["batch_id"], *map(list, zip(*started, strict=True)))
    if skipped:
        await connection.execute(_SKIPPED, row["batch_id"], *map(list, zip(*skipped, strict=True)))
    done.items, done.in_flight, done.pools = len(started) + len(skipped), len(started), list(pools)
    return done
