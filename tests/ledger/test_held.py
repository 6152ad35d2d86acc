"""What a cap of an intent or an open breaker holds back waits, is never too much, and is always let go."""

import asyncio
import json
import random
import uuid
from datetime import timedelta
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.ledger import claim_sql, held, tenant
from holdfast.ledger.commit_value import Requeue
from holdfast.ledger.domain.batch import light_intent
from holdfast.ledger.domain.tenant import intent_caps
from holdfast.ledger.look import look
from holdfast.ledger.retry import retry
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import Admitted, Leased, Limits, ServedIntent
from tests.ledger.test_plans import nodes
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    give_up,
    invocation,
    opened,
)
from tests.support.outbox import make_destination

BOTH = (ServedIntent("count", "1"), ServedIntent("talk", "1"))
CRITICAL = (ServedIntent("count", "1", critical=("tickets",)), ServedIntent("talk", "1"))


async def cap(db: Database, name: str = "acme", **caps: int) -> list[str]:
    changed = await tenant.change(db, name, {"intent_caps": intent_caps(caps)}, make=True)
    return changed.pools


async def breaker(db: Database, state: int, probe_in: timedelta = timedelta(minutes=1)) -> None:
    await execute(
        db,
        """UPDATE destination_state SET breaker = $1::smallint,
               open_time = CASE WHEN $1::smallint > 1 THEN clock_timestamp() END,
               probe_time = CASE WHEN $1::smallint > 1 THEN clock_timestamp() + $2::interval END""",
        state,
        probe_in,
    )


async def why(db: Database, run: Admitted) -> str:
    async with db.connection() as connection:
        return await held.reason(connection, "acme", run.pool)


async def let_look(db: Database) -> list[str]:
    """Let the time come at which what is held is looked at again."""
    await execute(db, "UPDATE tenant_pool SET look_time = now() - interval '1 s' WHERE held")
    return (await held.look_again(db))[1]


async def test_an_intent_has_no_more_in_flight_than_its_cap_and_others_go_on(db: Database) -> None:
    await cap(db, count=2)
    runs = await admitted(
        db, *(invocation() for _ in range(5)), *(invocation(intent="talk") for _ in range(3))
    )
    runner = await opened(db, BOTH)
    taken = await runner.take(10)
    assert sorted(run.intent for run in taken) == ["count"] * 2 + ["talk"] * 3
    assert await runner.take(10) == []
    assert await why(db, runs[0]) == "max_in_flight_by_intent of count is reached: 2"
    await finish(db, next(run for run in taken if run.intent == "count"))
    (next_one,) = await runner.take(10)
    assert next_one.run_id == runs[2].run_id
    assert await contradictions(db) == []


async def test_a_run_of_a_capped_intent_goes_to_no_idle_runner_past_the_count(db: Database) -> None:
    await cap(db, count=1)
    runner = await opened(db, BOTH)
    answers = [(await admitted(db, invocation(), on=runner.idle(9)))[0] for _ in range(3)]
    assert [answer.lease for answer in answers] == [None] * 3
    (talk,) = await admitted(db, invocation(intent="talk"), on=runner.idle(9))
    assert talk.lease is not None, "which has no cap"
    assert len(await runner.take(9)) == 1
    assert await contradictions(db) == []


async def test_a_cap_that_changes_holds_from_the_next_claim_on_and_takes_nothing_back(db: Database) -> None:
    await admitted(db, *(invocation() for _ in range(9)))
    runner = await opened(db, BOTH)
    first = await runner.take(4)
    await cap(db, count=2)
    assert await runner.take(9) == []
    for run in first[:2]:
        await finish(db, run)
    assert await runner.take(9) == [], "two are still held"
    await finish(db, first[2])
    assert len(await runner.take(9)) == 1
    assert await runner.take(9) == []
    assert await cap(db, count=4) == ["count"], "whoever serves it is woken"
    assert len(await runner.take(9)) == 2
    assert await contradictions(db) == []
    assert await cap(db) == ["count"]
    assert len(await runner.take(9)) == 2
    assert await fetch(db, "SELECT FROM lease WHERE capped_intent IS NOT NULL") == []


async def test_slots_come_back_from_runs_that_fail_are_retried_or_lose_their_runner(db: Database) -> None:
    await cap(db, count=1)
    runner = await opened(db, BOTH)
    ids = [run.run_id for run in await admitted(db, *(invocation(max_attempts=1) for _ in range(3)))]
    (run,) = await runner.take(9)
    await give_up(db, run, Requeue())
    (run,) = await runner.take(9)
    assert run.run_id == ids[1]
    await runner.expire()
    await sweep(db)
    other = await opened(db, BOTH)
    (run,) = await other.take(9)
    assert run.run_id == ids[2]
    await retry(db, "acme", ids[0], Limits())
    assert await other.take(9) == []
    await finish(db, run)
    (run,) = await other.take(9)
    assert run.run_id == ids[0]
    assert await contradictions(db) == []


async def test_runs_of_every_version_share_the_cap(db: Database) -> None:
    await cap(db, count=2)
    await admitted(db, *(invocation(agent_version=version) for version in ("1", "2", "1", "2")), invocation())
    runners = [await opened(db, (ServedIntent("count", version),)) for version in ("1", "2")]
    taken = [*(await runners[0].take(1)), *(await runners[1].take(9)), *(await runners[0].take(9))]
    assert len(taken) == 2
    for run in taken:
        await finish(db, run)
    again = [*(await runners[1].take(9)), *(await runners[0].take(9))]
    assert len(again) == 2
    assert await contradictions(db) == []


async def test_one_tenants_caps_are_none_of_anothers(db: Database) -> None:
    await cap(db, count=1)
    await admitted(db, *(invocation() for _ in range(3)), *(invocation(tenant="other") for _ in range(3)))
    taken = await (await opened(db, BOTH)).take(9)
    assert sorted(run.tenant for run in taken) == ["acme", "other", "other", "other"]


@pytest.mark.timeout(180)
async def test_no_cap_is_exceeded_however_runs_come_and_go_at_once(db: Database) -> None:
    await cap(db, count=3, talk=1)
    done: set[uuid.UUID] = set()
    total = 60

    async def come() -> None:
        for at in range(total // 2):
            await admitted(db, invocation(intent=("count", "talk")[at % 2]))

    async def work() -> None:
        runner: Runner = await opened(db, BOTH)
        while len(done) < total:
            for run in await runner.take(random.randint(1, 5)):
                broken = await fetch(
                    db,
                    """SELECT r.intent FROM lease l JOIN run r USING (run_id) GROUP BY 1
                       HAVING count(*) > CASE r.intent WHEN 'count' THEN 3 ELSE 1 END""",
                )
                assert broken == []
                await finish(db, run)
                done.add(run.run_id)
            await asyncio.sleep(0)

    async with asyncio.timeout(120):
        await asyncio.gather(come(), come(), work(), work(), work())
    assert await contradictions(db) == []


async def leased(runner: Runner) -> list[str]:
    found: list[Leased] = await runner.take(9)
    return sorted(run.intent for run in found)


async def test_runs_with_a_critical_destination_wait_while_its_breaker_is_open(db: Database) -> None:
    await make_destination(db, "tickets", tenant="acme")
    await breaker(db, 2)
    runs = await admitted(db, invocation(), invocation(), invocation(intent="talk"))
    runner = await opened(db, CRITICAL)
    assert await leased(runner) == ["talk"]
    assert await why(db, runs[0]) == "the breaker of its critical destination tickets is open"
    assert await let_look(db) == ["count"]
    assert await leased(runner) == [], "it is open still"
    await breaker(db, 3)
    await let_look(db)
    assert await leased(runner) == [], "its probe is under way"
    await breaker(db, 1)
    assert await leased(runner) == [], "claims pass it over until it is looked at again"
    assert await let_look(db) == ["count"]
    assert await leased(runner) == ["count", "count"]
    assert await contradictions(db) == []


async def test_a_breaker_that_nobody_probes_holds_nothing_for_ever(db: Database) -> None:
    await make_destination(db, "tickets", tenant="acme")
    await breaker(db, 2, timedelta(seconds=-3))
    await admitted(db, invocation())
    runner = await opened(db, CRITICAL)
    assert await leased(runner) == ["count"]


async def test_only_the_tenants_own_breaker_and_only_a_fresh_run_is_held(db: Database) -> None:
    await make_destination(db, "tickets", tenant="acme")
    await admitted(db, invocation(max_attempts=3))
    runner = await opened(db, CRITICAL)
    (started,) = await runner.take(9)
    await breaker(db, 2)
    await give_up(db, started, Requeue())
    await admitted(db, invocation(), invocation(tenant="other"))
    taken = await runner.take(9)
    assert {run.run_id for run in taken if run.tenant == "acme"} <= {started.run_id}
    assert [run.tenant for run in taken if run.run_id != started.run_id] == ["other"]


async def test_an_agent_that_names_no_destination_there_is_is_not_held(db: Database) -> None:
    await admitted(db, invocation())
    assert await leased(await opened(db, CRITICAL)) == ["count"]


async def any_held(db: Database) -> list[Any]:
    return await fetch(db, "SELECT pool FROM tenant_pool WHERE held")


async def without(db: Database, tenants: int) -> list[str]:
    """Make tenants that each have a run which waits, and a destination whose breaker is open."""
    names = [f"down-{n}" for n in range(tenants)]
    for name in names:
        await make_destination(db, "tickets", tenant=name)
    await breaker(db, 2)
    await admitted(db, *(invocation(tenant=name) for name in names))
    return names


async def test_tenants_that_are_held_back_cost_no_other_tenant_its_turn(db: Database) -> None:
    await without(db, 40)
    await admitted(db, invocation(tenant="healthy"))
    runner = await opened(db, CRITICAL)
    assert [run.tenant for run in await runner.take(2)] == ["healthy"], "none was known to be held yet"
    assert len(await any_held(db)) == 40
    await let_look(db)
    assert await any_held(db) == []
    await admitted(db, invocation(tenant="healthy"))
    assert [run.tenant for run in await runner.take(1)] == ["healthy"], "they are looked at once more"
    assert await contradictions(db) == []


async def test_what_a_breaker_holds_is_let_go_when_the_breaker_closes_and_not_before(db: Database) -> None:
    names = await without(db, 3)
    runner = await opened(db, CRITICAL)
    assert await runner.take(9) == []

    async def found() -> bool:
        async with db.connection() as connection:
            return (await look(connection)).held

    assert not await found()
    assert await held.look_again(db) == (0, [])
    assert len(await any_held(db)) == 3
    await execute(
        db,
        """UPDATE destination_state s SET breaker = 1 FROM destination d
           WHERE d.destination_id = s.destination_id AND d.tenant = $1""",
        names[1],
    )
    assert await found()
    assert await held.look_again(db) == (1, ["count"])
    assert not await found()
    assert [run.tenant for run in await runner.take(9)] == [names[1]]


async def test_a_destination_that_is_gone_holds_nothing(db: Database) -> None:
    await without(db, 1)
    runner = await opened(db, CRITICAL)
    assert await runner.take(9) == []
    await execute(db, "DELETE FROM destination")
    assert await held.look_again(db) == (1, ["count"])
    assert len(await runner.take(9)) == 1


async def test_the_end_of_a_capped_lease_lets_go_what_its_cap_held_and_not_what_a_breaker_holds(
    db: Database,
) -> None:
    await cap(db, count=2)
    runner = await opened(db, CRITICAL)
    await admitted(db, invocation())
    (started,) = await runner.take(1)
    await make_destination(db, "tickets", tenant="acme")
    await breaker(db, 2)
    await admitted(db, invocation())
    assert await runner.take(9) == []
    await finish(db, started)
    assert len(await any_held(db)) == 1
    await breaker(db, 1)
    await held.look_again(db)
    assert len(await runner.take(9)) == 1


async def test_a_claim_reads_no_row_that_is_held(db: Database) -> None:
    await execute(
        db,
        """INSERT INTO tenant_pool (pool, tenant, ready, held, look_time)
           SELECT 'count', 'down-' || n, 1, true, now() + interval '1 h' FROM generate_series(1, 5000) n""",
    )
    await admitted(db, invocation(tenant="healthy"), invocation(tenant="other"))
    await execute(db, "VACUUM ANALYZE tenant_pool")
    async with db.transaction() as connection:
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {claim_sql.LOCK_FREE}", ["count", "count@1"], 10
        )
    reads = [
        node
        for node in nodes(json.loads(text)[0]["Plan"])
        if node.get("Relation Name") == "tenant_pool" or node.get("Index Name") == "tenant_pool_open"
    ]
    assert reads
    for node in reads:
        assert node.get("Index Name") == "tenant_pool_open"
        assert node.get("Rows Removed by Filter", 0) == 0
        assert node["Actual Rows"] * node["Actual Loops"] == 2


async def test_what_is_held_is_found_by_the_look_when_its_time_comes(db: Database) -> None:
    await cap(db, count=1)
    await admitted(db, invocation(), invocation())
    await leased(await opened(db, BOTH))
    assert len(await any_held(db)) == 1
    async with db.connection() as connection:
        assert not (await look(connection)).held
    await execute(db, "UPDATE tenant_pool SET look_time = now() - interval '1 s' WHERE held")
    async with db.connection() as connection:
        assert (await look(connection)).held
    assert (await held.look_again(db))[0] == 1
    assert await any_held(db) == []


LIGHT = light_intent("count")
LIGHTLY = (*BOTH, ServedIntent(LIGHT, "1"))


async def test_chunks_of_light_items_share_the_cap_of_their_intent(db: Database) -> None:
    await cap(db, count=2)
    runner = await opened(db, LIGHTLY)
    (placed,) = await admitted(db, invocation(intent=LIGHT), on=runner.idle(9))
    assert placed.lease is None, "past the count"
    await admitted(db, invocation(), invocation(intent=LIGHT), invocation())
    taken = await runner.take(9)
    assert sorted(run.intent for run in taken) == ["count", LIGHT]
    assert await runner.take(9) == []
    await finish(db, next(run for run in taken if run.intent == LIGHT))
    (third,) = await runner.take(9)
    await finish(db, third)
    await finish(db, next(run for run in taken if run.intent == "count"))
    assert {third.intent, *[run.intent for run in await runner.take(9)]} == {"count", LIGHT}
    assert await contradictions(db) == []


async def test_a_cap_that_comes_later_counts_the_chunks_that_run_already(db: Database) -> None:
    await admitted(db, invocation(intent=LIGHT), invocation(intent=LIGHT))
    runner = await opened(db, LIGHTLY)
    (first, second) = await runner.take(9)
    await cap(db, count=2)
    await admitted(db, invocation())
    assert await runner.take(9) == []
    await finish(db, first)
    assert [run.intent for run in await runner.take(9)] == ["count"]
    await finish(db, second)
