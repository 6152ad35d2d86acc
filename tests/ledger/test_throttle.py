"""No user has more in flight than his cap; what waits for it costs others nothing, and is always let go."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.ledger import claim_sql, demand, gauge, tenant, tenant_queue, throttle, throttle_sql
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Park, Requeue
from holdfast.ledger.domain.tenant import user_caps
from holdfast.ledger.due import fire
from holdfast.ledger.look import look
from holdfast.ledger.pause import pause, resume
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

BOTH = (ServedIntent("count", "1"), ServedIntent("talk", "1"))


async def cap(
    db: Database, each: int | None = None, named: Mapping[str, int] | None = None, name: str = "acme"
) -> list[str]:
    changes = {"user_cap": each, "user_caps": user_caps(named or {})}
    return (await tenant.change(db, name, changes, make=True)).pools


async def queue(db: Database, user: str, runs: int = 1, **more: Any) -> list[Admitted]:
    return await admitted(db, *(invocation(user=user, **more) for _ in range(runs)))


async def users_of(db: Database, leases: list[Leased]) -> list[str]:
    rows = await fetch(
        db, "SELECT user_id FROM run WHERE run_id = ANY($1::uuid[])", [run.run_id for run in leases]
    )
    return sorted(row["user_id"] for row in rows)


async def throttled(db: Database) -> Counter[str]:
    rows = await fetch(db, "SELECT user_id, count(*) AS n FROM throttled GROUP BY user_id")
    return Counter({row["user_id"]: row["n"] for row in rows})


async def why(db: Database, user: str) -> str:
    async with db.connection() as connection:
        return await throttle.reason(connection, "acme", user)


async def let_look(db: Database) -> tuple[int, list[str]]:
    """Let the time come at which users are looked at again."""
    await execute(db, "UPDATE throttled_user SET look_time = now() - interval '1 s'")
    return await throttle.look_again(db)


async def test_a_user_has_no_more_in_flight_than_his_cap_and_others_go_on(db: Database) -> None:
    await cap(db, 3, {"ann": 2})
    anns = await queue(db, "ann", 5)
    await queue(db, "bob", 5)
    await queue(db, "", 2)
    runner = await opened(db, BOTH)
    taken = await runner.take(20)
    assert await users_of(db, taken) == ["", ""] + ["ann"] * 2 + ["bob"] * 3
    assert await runner.take(20) == []
    assert await throttled(db) == {"ann": 3, "bob": 2}
    assert await why(db, "ann") == "max_in_flight_by_user of ann is reached: 2"
    assert await why(db, "bob") == "max_in_flight_per_user of bob is reached: 3"
    assert await why(db, "") == ""
    assert await contradictions(db) == []
    await finish(db, next(run for run in taken if run.run_id == anns[0].run_id))
    assert await why(db, "ann") == ""
    (next_one,) = await runner.take(20)
    assert next_one.run_id == anns[2].run_id, "in the order in which they came"
    assert await contradictions(db) == []


async def test_a_user_that_is_named_alone_leaves_others_without_a_cap(db: Database) -> None:
    await cap(db, None, {"ann": 1})
    await queue(db, "ann", 3)
    await queue(db, "bob", 3)
    assert await users_of(db, await (await opened(db)).take(9)) == ["ann", "bob", "bob", "bob"]
    assert await contradictions(db) == []


async def test_a_run_of_a_user_goes_to_no_idle_runner_past_the_count(db: Database) -> None:
    await cap(db, 1)
    runner = await opened(db)
    for at in range(3):
        (answer,) = await admitted(db, invocation(user="ann"), on=runner.idle(9))
        assert answer.lease is None, at
    (nobody,) = await admitted(db, invocation(), on=runner.idle(9))
    assert nobody.lease is None, "others wait"
    assert await users_of(db, await runner.take(9)) == ["", "ann"]
    (nobody,) = await admitted(db, invocation(), on=runner.idle(9))
    assert nobody.lease is not None, "who has no cap"
    ann, nobody = await admitted(db, invocation(user="ann"), invocation(tenant="other"), on=runner.idle(9))
    assert (ann.lease, nobody.lease is not None) == (None, True)
    assert await contradictions(db) == []


async def test_runs_of_all_intents_share_the_cap_in_one_claim_and_none_is_left_behind(db: Database) -> None:
    await cap(db, 2)
    for intent in ("count", "talk") * 3:
        await queue(db, "ann", intent=intent)
    both = await opened(db, BOTH)
    first, second = await both.take(9)
    assert await both.take(9) == []
    assert await throttled(db) == {"ann": 4}
    assert await contradictions(db) == []
    talker, counter = await opened(db, BOTH[1:]), await opened(db, BOTH[:1])
    await finish(db, first)
    assert await throttled(db) == {"ann": 2}, "of each intent one comes back"
    (talk,) = await talker.take(9)
    assert talk.intent == "talk"
    assert await counter.take(9) == [], "the room was for one"
    await finish(db, second)
    (count,) = await counter.take(9)
    assert count.intent == "count"
    assert await contradictions(db) == []


@pytest.mark.parametrize("served", BOTH)
async def test_a_pool_that_nobody_serves_does_not_take_the_room_from_another(
    db: Database, served: ServedIntent
) -> None:
    await cap(db, 1)
    both = await opened(db, BOTH)
    await queue(db, "ann", 1)
    (running,) = await both.take(9)
    for each in sorted(BOTH, key=lambda each: each is served):
        await queue(db, "ann", 2, intent=each.intent)
    assert await both.take(9) == []
    assert await throttled(db) == {"ann": 4}
    await finish(db, running)
    one = await opened(db, (served,))
    assert len(await one.take(9)) == 1, "though those of the other pool came first"
    assert await contradictions(db) == []


async def test_slots_come_back_from_runs_that_fail_rest_are_retried_or_lose_their_runner(
    db: Database,
) -> None:
    await cap(db, 1)
    runner = await opened(db)
    ids = [run.run_id for run in await queue(db, "ann", 4, max_attempts=1)]
    (run,) = await runner.take(9)
    await give_up(db, run, Requeue())
    (run,) = await runner.take(9)
    assert run.run_id == ids[1]
    item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=Park(("go",)))
    await commit_group(db, [item])
    (run,) = await runner.take(9)
    assert run.run_id == ids[2]
    await runner.expire()
    swept = await sweep(db)
    assert swept.pools == ["count"], "whoever serves it is told"
    assert await contradictions(db) == []
    other = await opened(db)
    (run,) = await other.take(9)
    assert run.run_id == ids[3]
    await retry(db, "acme", ids[0], Limits())
    assert await other.take(9) == []
    await finish(db, run)
    (run,) = await other.take(9)
    assert run.run_id == ids[0]
    assert await contradictions(db) == []


async def test_a_run_that_goes_on_after_a_try_needs_a_slot_again_and_gets_its_turn(
    db: Database,
) -> None:
    await cap(db, 1)
    runner = await opened(db)
    await queue(db, "ann", 5)
    (run,) = await runner.take(9)
    assert await runner.take(9) == []
    await give_up(db, run, Requeue())
    next_ones: list[Leased] = []
    for _ in range(2):
        (one,) = await runner.take(9)
        next_ones.append(one)
        assert await runner.take(9) == []
        assert await contradictions(db) == []
        await finish(db, one)
    assert run.run_id in {one.run_id for one in next_ones}, "it waits in a pool of its own, whose turn comes"


async def test_caps_change_while_runs_wait_and_nothing_in_flight_is_taken_back(db: Database) -> None:
    await queue(db, "ann", 12)
    runner = await opened(db)
    first = await runner.take(4)
    assert await cap(db, 2) == []
    assert await runner.take(9) == []
    assert await throttled(db) == {"ann": 8}
    for run in first[:2]:
        await finish(db, run)
    assert await runner.take(9) == [], "two are still held"
    await finish(db, first[2])
    assert len(await runner.take(9)) == 1
    assert await cap(db, 2, {"ann": 4}) == ["count"], "whoever serves it is woken"
    assert len(await runner.take(9)) == 2
    assert await runner.take(9) == []
    assert await contradictions(db) == []
    assert await cap(db) == ["count"]
    assert len(await runner.take(9)) == 5
    assert await fetch(db, "SELECT FROM lease WHERE capped_user IS NOT NULL") == []
    await let_look(db)
    assert await fetch(db, "SELECT FROM throttled_user") == []
    assert await contradictions(db) == []


async def test_a_cap_that_is_taken_away_lets_many_runs_go_step_by_step(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "MOST", 4)
    await cap(db, 1)
    await queue(db, "ann", 11)
    await queue(db, "bob", 3)
    runner = await opened(db)
    await runner.take(2)
    assert await runner.take(2) == []
    assert await throttled(db) == {"ann": 10, "bob": 2}
    await cap(db)
    assert (await throttled(db)).total() < 12
    for _ in range(6):
        await throttle.look_again(db)
    assert await throttled(db) == {}
    assert await throttle.look_again(db) == (0, [])
    assert len(await runner.take(20)) == 12
    assert await contradictions(db) == []


async def test_runs_that_leave_the_queue_otherwise_leave_no_room_unused(db: Database) -> None:
    await cap(db, 1)
    runner = await opened(db)
    runs = await queue(db, "ann", 7)
    (running,) = await runner.take(9)
    assert await throttled(db) == {"ann": 6}
    await cancel(db, "acme", runs[5].run_id, "enough")
    await pause(db, "acme", runs[6].run_id)
    assert await throttled(db) == {"ann": 4}
    assert await contradictions(db) == []
    await finish(db, running)
    assert await throttled(db) == {"ann": 3}
    await cancel(db, "acme", runs[1].run_id, "the one that came back")
    assert await throttled(db) == {"ann": 2}
    assert await contradictions(db) == []
    await pause(db, "acme", runs[2].run_id)
    assert await throttled(db) == {"ann": 1}
    assert await contradictions(db) == []
    await execute(
        db,
        "UPDATE timer SET due_time = now() - interval '1 s' WHERE kind = 1 AND run_id = $1",
        runs[3].run_id,
    )
    await execute(
        db,
        "UPDATE run_state SET deadline_time = now() - interval '1 s' WHERE run_id = $1",
        runs[3].run_id,
    )
    await fire(db)
    assert await throttled(db) == {}
    (last,) = await runner.take(9)
    assert last.run_id == runs[4].run_id
    await resume(db, "acme", runs[2].run_id)
    await fire(db)
    assert await runner.take(9) == []
    await finish(db, last)
    (resumed,) = await runner.take(9)
    assert resumed.run_id == runs[2].run_id
    assert await contradictions(db) == []


async def test_a_throttled_run_keeps_its_lane_and_nothing_is_deadlocked(db: Database) -> None:
    await cap(db, 1)
    runner = await opened(db)
    (first, *_) = await queue(db, "ann", 1)
    (running,) = await runner.take(9)
    assert running.run_id == first.run_id
    holder, *_ = await queue(db, "ann", 2, ordering_key="k")
    (other,) = await queue(db, "bob", 1, ordering_key="k")
    assert await runner.take(9) == [], "the lane is held by a run that is throttled"
    assert await contradictions(db) == []
    await finish(db, running)
    (run,) = await runner.take(9)
    assert run.run_id == holder.run_id
    await finish(db, run)
    (run,) = await runner.take(9)
    await finish(db, run)
    (run,) = await runner.take(9)
    assert run.run_id == other.run_id
    assert await contradictions(db) == []


async def test_one_tenants_caps_are_none_of_anothers(db: Database) -> None:
    await cap(db, 1)
    await queue(db, "ann", 3)
    await queue(db, "ann", 3, tenant="other")
    taken = await (await opened(db)).take(9)
    assert sorted(run.tenant for run in taken) == ["acme", "other", "other", "other"]


@pytest.mark.parametrize("slots", [1, 5])
async def test_runs_of_a_user_at_his_cap_in_front_cost_nobody_a_turn(
    db: Database, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.ledger.throttle_sift.MOST", 10)
    await cap(db, 1)
    runner = await opened(db)
    await queue(db, "ann", 400)
    assert len(await runner.take(1)) == 1
    await queue(db, "zoe", 2, tenant="other")
    first = await runner.take(slots)
    assert await users_of(db, first) == ["zoe", "zoe"][:slots], "the claim goes on behind them"
    assert (await throttled(db))["ann"] <= 16 * (slots + 10), "and stops somewhere"
    await queue(db, "bob", 1)
    taken: list[str] = []
    for _ in range(20):
        taken += await users_of(db, await runner.take(slots))
    assert "bob" in taken
    assert "ann" not in taken
    assert await throttled(db) == {"ann": 399}
    assert await contradictions(db) == []


@pytest.mark.timeout(180)
async def test_no_cap_is_exceeded_however_runs_come_and_go_at_once(db: Database) -> None:
    caps = {"ann": 3, "bob": 1}
    await cap(db, 2, caps)
    users = ("ann", "bob", "eve", "")
    done: set[uuid.UUID] = set()
    total = 80

    async def come() -> None:
        for at in range(total // 2):
            await queue(db, users[at % 4], intent=("count", "talk")[at % 3 % 2])

    async def work() -> None:
        runner: Runner = await opened(db, BOTH)
        while len(done) < total:
            for run in await runner.take(random.randint(1, 5)):
                held = await fetch(
                    db, "SELECT r.user_id, count(*) AS n FROM lease l JOIN run r USING (run_id) GROUP BY 1"
                )
                assert all(row["n"] <= caps.get(row["user_id"], 2) for row in held if row["user_id"])
                await finish(db, run)
                done.add(run.run_id)
            await asyncio.sleep(0)

    async with asyncio.timeout(120):
        await asyncio.gather(come(), come(), work(), work(), work())
    assert await throttled(db) == {}
    assert await contradictions(db) == []


async def test_what_a_release_of_before_leaves_behind_is_found_by_the_look(db: Database) -> None:
    await cap(db, 1)
    runner = await opened(db)
    await queue(db, "ann", 3)
    (run,) = await runner.take(9)
    assert await runner.take(9) == []
    await execute(db, "UPDATE lease SET capped_user = NULL")  # as a claim of before would have written it
    await finish(db, run)
    assert await runner.take(9) == []
    async with db.connection() as connection:
        assert not (await look(connection)).held
    await execute(db, "UPDATE throttled_user SET look_time = now() - interval '1 s'")
    async with db.connection() as connection:
        assert (await look(connection)).held
    assert await throttle.look_again(db) == (1, ["count"])
    async with db.connection() as connection:
        assert not (await look(connection)).held
    assert len(await runner.take(9)) == 1
    assert await contradictions(db) == []


async def test_what_a_release_of_before_did_to_throttled_runs_is_not_undone(db: Database) -> None:
    await cap(db, 1)
    runner = await opened(db)
    ids = [run.run_id for run in await queue(db, "ann", 5)]
    (running,) = await runner.take(9)
    rows = await fetch(db, "SELECT * FROM throttled ORDER BY seq")
    assert [row["run_id"] for row in rows] == ids[1:]
    await cancel(db, "acme", ids[1], "enough")
    await pause(db, "acme", ids[2])
    await execute(db, "INSERT INTO ready SELECT pool, tenant, rank, seq, run_id FROM throttled LIMIT 1")
    await execute(db, "UPDATE tenant_pool SET ready = ready + 1")
    await execute(db, "INSERT INTO throttled SELECT ($1::throttled).*", tuple(rows[0]))
    await execute(db, "INSERT INTO throttled SELECT ($1::throttled).*", tuple(rows[1]))
    assert await throttled(db) == {"ann": 4}, "as if that release had let them stand"
    assert await runner.take(9) == []
    taken: list[uuid.UUID] = []
    run = running
    for _ in range(2):
        await finish(db, run)
        for _ in range(3):  # a look each for what is only forgotten
            await let_look(db)
        (run,) = await runner.take(9)
        taken.append(run.run_id)
    assert taken == [ids[3], ids[4]]
    assert await contradictions(db) == []


async def test_a_claim_notices_a_count_that_promises_too_much(db: Database) -> None:
    await cap(db, 1)
    await queue(db, "ann", 2)
    await execute(db, "UPDATE tenant_pool SET ready = 5")
    runner = await opened(db)
    assert len(await runner.take(9)) == 1
    assert await runner.take(9) == []
    assert await contradictions(db) == []


async def test_throttled_runs_are_queued_and_call_for_no_runner(db: Database) -> None:
    await cap(db, 1)
    runner = await opened(db)
    await queue(db, "ann", 5)
    await runner.take(1)
    await runner.take(1)
    question = demand.Question(("count",))
    async with db.connection() as connection:
        whole = (await tenant_queue.queues(connection, ["acme"]))["acme"]
        assert (whole.queued, whole.in_flight, whole.throttled) == (4, 1, True)
        assert await tenant_queue.intents(connection, "acme") == []
        backlog = (await demand.backlogs(connection, [question]))[question]
        assert (backlog.waiting, backlog.in_flight) == (0, 1)
        assert await gauge.queue_depths(connection) == []


async def fill(db: Database, user: str, runs: int) -> None:
    """Queue a user's runs without the door, for its time is not what is measured."""
    async with db.transaction() as connection:
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute(
            """WITH new AS MATERIALIZED (
                   SELECT gen_random_uuid() AS run_id, nextval('run_seq') AS seq
                   FROM generate_series(1, $2::bigint) AS n
               ), runs AS (
                   INSERT INTO run (run_id, seq, tenant, create_time, intent, shape, user_id, idempotency_key,
                                    correlation_id, session_id, ordering_key, priority, envelope)
                   SELECT run_id, seq, 'acme', now(), 'count', 1, $1, run_id::text, '', '', '', 0, '' FROM new
               ), states AS (
                   INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch,
                       attempt, max_attempts, create_time, deadline_time, max_steps, max_tools, max_tokens,
                       max_context, deadline_ms)
                   SELECT run_id, 'acme', seq, current_date, 'count', 0, '', 1, 0, 0, 5, now(),
                          now() + interval '1 h', 9, 9, 9, 9, 9 FROM new
               ), waiting AS (
                   INSERT INTO ready (pool, tenant, rank, seq, run_id)
                   SELECT 'count', 'acme', 0, seq, run_id FROM new
               ), counted AS (
                   UPDATE tenant SET queued = queued + $2
               )
               INSERT INTO tenant_pool AS p (pool, tenant, ready) VALUES ('count', 'acme', $2)
               ON CONFLICT (pool, tenant) DO UPDATE SET ready = p.ready + excluded.ready""",
            user,
            runs,
            timeout=120,
        )


def reads(plan: Any, relation: str) -> float:
    """Return how many rows of a table the parts of a plan have looked at."""
    of_table = [node for node in nodes(plan) if node.get("Relation Name") == relation]
    found = [node for node in of_table if "Scan" in node["Node Type"]]
    assert all(node["Node Type"] != "Seq Scan" for node in found), relation
    return sum(
        float(node["Actual Loops"]) * float(node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in found
    )


async def explained(db: Database, statement: str, *arguments: Any) -> Any:
    """Execute a statement for its plan, and take it back."""
    async with db.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments)
        finally:
            await transaction.rollback()
    return json.loads(text)[0]["Plan"]


@pytest.mark.timeout(300)
async def test_a_hundred_thousand_runs_in_front_are_met_once_and_never_again(db: Database) -> None:
    await cap(db, 1)
    await fill(db, "ann", 100_000)
    (bob,) = await queue(db, "bob")
    runner = await opened(db)
    assert await users_of(db, await runner.take(1)) == ["ann"]
    claims = 0
    taken: list[Leased] = []
    while not taken:
        taken = await runner.take(1)
        claims += 1
    assert taken[0].run_id == bob.run_id
    assert claims <= 100_000 / (15 * throttle.MOST) + 1
    await queue(db, "bob", 2)
    await execute(db, "VACUUM ANALYZE ready, throttled, lease, run, tenant_pool")
    pools = ["count", "count@1"]
    plan = await explained(db, claim_sql.LOCK_FREE, pools, 10)
    assert reads(plan, "tenant_pool") <= 2
    front = await explained(db, throttle_sql.FRONT, ["count"], ["acme"], [-(2**15)], [0], [5])
    assert reads(front, "ready") == 2, "what is out of the way is not read"
    assert reads(front, "run") == 2
    await execute(db, "DELETE FROM lease WHERE capped_user = 'ann'")
    free = await explained(db, throttle_sql.FREE, ["acme"], ["ann"], [1])
    assert reads(free, "throttled") <= 5
    assert reads(free, "lease") == 0
    due = await explained(db, throttle_sql.DUE)
    assert reads(due, "throttled_user") == 0, "whose time has not come"


async def test_a_delayed_run_of_a_user_at_his_cap_waits_for_its_time_first(db: Database) -> None:
    await cap(db, 1)
    runner = await opened(db)
    await queue(db, "ann", 1)
    (running,) = await runner.take(9)
    (late,) = await queue(db, "ann", 1, not_before=datetime.now(UTC) + timedelta(hours=1))
    assert await runner.take(9) == []
    await execute(db, "UPDATE timer SET due_time = now() - interval '1 s' WHERE kind = 2")
    await fire(db)
    assert await runner.take(9) == []
    assert await throttled(db) == {"ann": 1}
    await finish(db, running)
    (run,) = await runner.take(9)
    assert run.run_id == late.run_id
    assert await contradictions(db) == []
