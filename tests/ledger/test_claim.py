"""Claims are fair among tenants, keep caps and order, and never give one run to two runners."""

import asyncio
import time
import uuid
from collections import Counter

import pytest

from holdfast.kit.db import Database
from holdfast.ledger.claim import Demand, claim, claim_free, claim_locked
from holdfast.ledger.commit_value import Requeue
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import ServedIntent
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    fill,
    finish,
    give_up,
    invocation,
    opened,
    status_of,
)


async def test_a_leased_run_carries_what_its_runner_needs(db: Database) -> None:
    (admitted_run,) = await admitted(db, invocation(envelope=b"\x00whole", max_attempts=4))
    runner = await opened(db)
    (run,) = await runner.take(5)
    assert (run.run_id, run.session_id) == (admitted_run.run_id, runner.session_id)
    assert (run.epoch, run.attempt, run.max_attempts) == (1, 1, 4)
    assert (run.envelope, run.last_commit, run.last_sequence) == (b"\x00whole", 0, 1)
    assert 590 < run.remaining_s <= 600
    assert await status_of(db, run.run_id) is RunStatus.RUNNING
    assert await runner.take(5) == []


async def test_no_run_is_given_to_two_runners_that_claim_at_once(db: Database) -> None:
    for group in range(4):
        await admitted(db, *(invocation(tenant=f"t{n % 7}") for n in range(group * 10, group * 10 + 100)))
    runners = [await opened(db) for _ in range(6)]
    taken = await asyncio.gather(*(runner.take(15) for runner in runners for _ in range(8)))
    runs = [run.run_id for batch in taken for run in batch]
    assert len(runs) == len(set(runs)) == 400
    assert await contradictions(db) == []


async def test_claims_that_collide_on_one_tenant_all_get_their_share(db: Database) -> None:
    await admitted(db, *(invocation() for _ in range(40)))
    runners = [await opened(db) for _ in range(8)]
    taken = await asyncio.gather(*(runner.take(5) for runner in runners))
    assert [len(batch) for batch in taken] == [5] * 8  # none went away empty because a lock was held


async def test_a_quiet_tenant_does_not_wait_behind_a_loud_one(db: Database) -> None:
    await admitted(db, *(invocation(tenant="loud", ordering_key=f"k{n}") for n in range(200)))
    await admitted(db, invocation(tenant="quiet"))
    runner = await opened(db)
    assert "quiet" in {run.tenant for run in await runner.take(2)}


async def test_tenants_are_served_in_proportion_to_their_weights(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, weight) VALUES ('heavy', 3), ('light', 1)")
    await admitted(db, *(invocation(tenant=t) for t in ("heavy", "light") for _ in range(80)))
    runner = await opened(db)
    served = Counter([run.tenant for _ in range(10) for run in await runner.take(8)])
    assert served == {"heavy": 60, "light": 20}


async def test_single_slots_are_shared_as_well(db: Database) -> None:
    await admitted(db, *(invocation(tenant=f"t{n}") for n in range(4) for _ in range(5)))
    runner = await opened(db)
    first = [run.tenant for _ in range(4) for run in await runner.take(1)]
    assert sorted(first) == ["t0", "t1", "t2", "t3"]


async def test_the_most_urgent_goes_first_and_equals_in_order(db: Database) -> None:
    runs = await admitted(db, *(invocation(priority=p) for p in (0, 9, 0, 9)))
    runner = await opened(db)
    taken = [run.run_id for run in await runner.take(4)]
    assert taken == [runs[1].run_id, runs[3].run_id, runs[0].run_id, runs[2].run_id]


async def test_a_tenants_cap_holds_across_its_intents(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, max_in_flight) VALUES ('acme', 3)")
    await admitted(db, *(invocation(intent=i) for i in ("count", "sum") for _ in range(5)))
    runner = await opened(db, (ServedIntent("count", "1"), ServedIntent("sum", "1")))
    taken = await runner.take(10)
    assert len(taken) == 3
    assert await runner.take(10) == []
    assert await contradictions(db) == []
    await finish(db, taken[0])
    assert len(await runner.take(10)) == 1
    assert await contradictions(db) == []


async def test_a_tenant_in_many_pools_at_its_last_slot_leaves_no_other_slot_free(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, max_in_flight) VALUES ('acme', 1)")
    await admitted(db, invocation(), invocation(agent_version="1"), invocation(tenant="umbrella"))
    runner = await opened(db)
    assert {run.tenant for run in await runner.take(2)} == {"acme", "umbrella"}


async def test_a_cap_lowered_below_what_runs_takes_nothing_back_and_gives_nothing(db: Database) -> None:
    await admitted(db, *(invocation() for _ in range(5)))
    runner = await opened(db)
    taken = await runner.take(3)
    await execute(db, "UPDATE tenant SET max_in_flight = 1")
    assert await runner.take(3) == []
    for run in taken:
        await finish(db, run)
    assert len(await runner.take(3)) == 1
    assert await contradictions(db) == []


async def test_runs_of_a_key_execute_one_at_a_time_in_order(db: Database) -> None:
    runs = await admitted(db, *(invocation(ordering_key="k") for _ in range(5)))
    runner = await opened(db)
    for expected in runs:
        (run,) = await runner.take(5)
        assert run.run_id == expected.run_id
        assert await runner.take(5) == []
        await finish(db, run)
    assert await contradictions(db) == []
    assert await fetch(db, "SELECT * FROM lane") == []


async def test_a_failed_attempt_keeps_its_place_before_those_behind_it(db: Database) -> None:
    first, second = await admitted(db, invocation(ordering_key="k"), invocation(ordering_key="k"))
    runner = await opened(db)
    (run,) = await runner.take(5)
    await give_up(db, run, Requeue())
    (again,) = await runner.take(5)
    assert (again.run_id, again.attempt) == (first.run_id, 2)
    await finish(db, again, RunStatus.FAILED)
    (after,) = await runner.take(5)
    assert after.run_id == second.run_id


async def test_a_blocked_key_blocks_nothing_else(db: Database) -> None:
    await admitted(
        db, invocation(ordering_key="k"), invocation(ordering_key="k"), invocation(ordering_key="l")
    )
    runner = await opened(db)
    assert len(await runner.take(5)) == 2


async def test_keys_finished_by_many_at_once_strand_no_run(db: Database) -> None:
    keys = [f"k{n}" for n in range(6)]
    await admitted(db, *(invocation(ordering_key=key) for key in keys for _ in range(8)))
    runners = [await opened(db) for _ in range(4)]
    done = 0

    async def work(runner: Runner) -> None:
        nonlocal done
        while done < 48:
            for run in await runner.take(2):
                await finish(db, run)
                done += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await asyncio.gather(*(work(runner) for runner in runners))
    assert await contradictions(db) == []
    assert await fetch(db, "SELECT * FROM lane") == []


async def test_a_runner_gets_only_what_it_serves(db: Database) -> None:
    await admitted(db, invocation(intent="sum"), invocation(agent_version="2"))
    runner = await opened(db)
    assert await runner.take(5) == []
    both = await opened(
        db, (ServedIntent("count", "3", compatible_versions=("2",)), ServedIntent("sum", "1"))
    )
    assert len(await both.take(5)) == 2


async def test_a_started_run_goes_on_only_where_its_version_is_served(db: Database) -> None:
    await admitted(db, invocation())
    old = await opened(db)
    (run,) = await old.take()
    await give_up(db, run, Requeue())
    assert await (await opened(db, (ServedIntent("count", "2"),))).take() == []
    new = await opened(db, (ServedIntent("count", "3", compatible_versions=("1",)),))
    (again,) = await new.take()
    assert again.run_id == run.run_id
    (row,) = await fetch(db, "SELECT pool, agent_version FROM run_state")
    assert (row["pool"], row["agent_version"]) == ("count@3", "3")


async def test_a_session_that_has_ended_gets_nothing(db: Database) -> None:
    await admitted(db, invocation())
    runner = await opened(db)
    await runner.expire()
    assert await runner.take() == []
    assert await contradictions(db) == []


async def test_one_claim_serves_sessions_that_serve_alike_together(db: Database) -> None:
    await admitted(db, *(invocation() for _ in range(6)))
    one, two = await opened(db), await opened(db)
    leased = await claim(db, [Demand(r.session_id, r.served, slots) for r, slots in ((one, 2), (two, 3))])
    assert Counter(run.session_id for run in leased) == {one.session_id: 2, two.session_id: 3}


async def test_a_count_that_has_drifted_sets_itself_right(db: Database) -> None:
    await admitted(db, invocation())
    await execute(db, "UPDATE tenant_pool SET ready = 5")
    runner = await opened(db)
    assert len(await runner.take(9)) == 1
    assert await runner.take(9) == []
    assert await contradictions(db) == []


@pytest.mark.timeout(300)
async def test_a_claim_costs_the_same_whatever_waits(db: Database) -> None:
    runner = await opened(db)
    await fill(db, tenants=100, runs=1_000)
    short = await _cost(runner)
    await fill(db, tenants=10_000, runs=100_000)
    long = await _cost(runner)
    assert long < 3 * short + 0.002, f"{short * 1e3:.2f} ms at 1e3 queued, {long * 1e3:.2f} ms at 1e5"


async def _cost(runner: Runner) -> float:
    """Measure the best of several claims of 50: a shared machine only ever adds."""
    costs = []
    for _ in range(12):
        begin = time.perf_counter()
        assert len(await runner.take(50)) == 50
        costs.append(time.perf_counter() - begin)
    return min(costs)


async def test_a_locked_tenant_is_passed_by_and_taken_once_it_is_free_with_the_seats_there_are_then(
    db: Database,
) -> None:
    await admitted(db, *(invocation(tenant=tenant) for tenant in ("busy", "busy", "light")))
    runner = await opened(db)
    demand = Demand(runner.session_id, runner.served, 3)
    asked: list[int] = []

    def seats() -> dict[uuid.UUID, int]:
        asked.append(1)
        return {runner.session_id: 1}

    async with db.transaction() as other:
        await other.execute("SELECT FROM tenant WHERE tenant = 'busy' FOR NO KEY UPDATE")
        free = await claim_free(db, [demand])
        assert [run.tenant for run in free.leased] == ["light"]
        assert free.passed_by == [[demand]]
        waiting = asyncio.create_task(claim_locked(db, runner.served, seats, 3))
        await asyncio.sleep(0.1)
        assert not asked
    assert [run.tenant for run in await waiting] == ["busy"]
    assert asked
    assert (await claim_free(db, [demand])).passed_by == []
    assert await contradictions(db) == []
