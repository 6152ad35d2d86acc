"""A tenant's queue is told from counters and first rows, and what they say is so."""

import asyncio
from datetime import timedelta

from holdfast.kit.db import Database
from holdfast.ledger import tenant, tenant_queue
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Park, Requeue
from holdfast.ledger.tenant_queue import IntentQueue, TenantQueue
from holdfast.ledger.values import ServedIntent
from tests.support.ledger import admitted, execute, fetch, give_up, invocation, opened


async def queue_of(db: Database, name: str = "acme") -> TenantQueue:
    async with db.connection() as connection:
        return (await tenant_queue.queues(connection, [name, "nobody"]))[name]


async def intents_of(db: Database, name: str = "acme") -> list[IntentQueue]:
    async with db.connection() as connection:
        return await tenant_queue.intents(connection, name)


async def test_a_queue_counts_what_waits_is_held_parked_and_set_aside(db: Database) -> None:
    await admitted(db, *(invocation(max_attempts=1) for _ in range(2)))
    runner = await opened(db)
    failing, parking = await runner.take(2)
    await give_up(db, failing, Requeue())
    await commit_group(db, [CommitItem(parking.run_id, parking.epoch, 1, move=Park(("input",)))])
    await admitted(db, *(invocation() for _ in range(4)), invocation(tenant="other"))
    await runner.take(1)
    queue = await queue_of(db)
    assert (queue.queued, queue.in_flight, queue.parked, queue.dead_lettered) in {(3, 1, 1, 1), (4, 0, 1, 1)}
    rows = await fetch(db, "SELECT status, count(*) AS n FROM run_state WHERE tenant = 'acme' GROUP BY 1")
    assert queue.queued == {row["status"]: row["n"] for row in rows}[1]
    assert (queue.refused_queue_full, queue.refused_rate, queue.throttled) == (0, 0, False)


async def test_the_oldest_age_is_that_of_the_first_run_that_still_waits(db: Database) -> None:
    runs = await admitted(db, *(invocation() for _ in range(3)))
    for hours, run in zip((3, 2, 1), runs, strict=True):
        await execute(
            db,
            "UPDATE run_state SET create_time = create_time - make_interval(hours => $2) WHERE run_id = $1",
            run.run_id,
            hours,
        )
    runner = await opened(db)
    for hours in (3, 2, 1):
        queue = await queue_of(db)
        assert queue.oldest_age is not None
        assert timedelta(hours=hours) <= queue.oldest_age < timedelta(hours=hours, minutes=5)
        await runner.take(1)
    assert (await queue_of(db)).oldest_age is None


async def test_a_tenant_at_its_cap_with_runs_that_wait_is_throttled(db: Database) -> None:
    await tenant.change(db, "acme", {"max_in_flight": 1}, make=True)
    await admitted(db, *(invocation() for _ in range(2)))
    runner = await opened(db)
    assert not (await queue_of(db)).throttled
    await runner.take(1)
    assert (await queue_of(db)).throttled
    await tenant.change(db, "acme", {"max_in_flight": 2})
    assert not (await queue_of(db)).throttled


async def test_intents_are_told_the_longest_first_over_versions_and_priorities(db: Database) -> None:
    served = (ServedIntent("count", "1"), ServedIntent("add", "1"))
    await admitted(
        db,
        invocation(intent="add"),
        invocation(priority=0),
        invocation(priority=9),
        invocation(agent_version="7"),
        invocation(ordering_key="k"),
        invocation(ordering_key="k"),
    )
    await execute(
        db,
        """UPDATE run_state SET create_time = create_time - interval '1 h'
           WHERE rank = 0 AND ordering_key = '' AND pool = 'count'""",
    )
    count, add = await intents_of(db)
    assert (count.intent, count.queued, add.intent, add.queued) == ("count", 4, "add", 1)
    assert count.oldest_age >= timedelta(hours=1) > add.oldest_age
    runner = await opened(db, served)
    await runner.take(10)
    assert [one.intent for one in await intents_of(db)] == ["count"]  # of a version nobody serves


async def test_refusals_add_up_from_many_processes(db: Database) -> None:
    for name in ("a", "b"):
        await tenant.change(db, name, {}, make=True)
    counts = [{"a": (1, 2), "b": (0, 3), "gone": (9, 9)}, {"b": (4, 0), "a": (1, 1)}] * 8
    await asyncio.gather(*(tenant_queue.add_refused(db, each) for each in counts))
    for name, expected in (("a", (16, 24)), ("b", (32, 24))):
        queue = await queue_of(db, name)
        assert (queue.refused_queue_full, queue.refused_rate) == expected
