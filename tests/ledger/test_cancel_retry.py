"""People stop runs and start them again; what that may not do is refused with the reason."""

import asyncio
import uuid

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import QueueFull, RunNotFound, RunNotRetryable
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Record, Stored
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.inspect import get
from holdfast.ledger.retry import retry
from holdfast.ledger.values import Limits, Outcome
from tests.support.ledger import (
    admitted,
    contradictions,
    execute,
    finish,
    invocation,
    opened,
    status_of,
)


async def test_a_queued_run_ends_at_once_and_lets_the_next_of_its_key_go(db: Database) -> None:
    first, second = await admitted(db, invocation(ordering_key="k"), invocation(ordering_key="k"))
    cancelled = await cancel(db, "acme", first.run_id, "wrong ticket")
    assert (cancelled.status, cancelled.moved.pools) == (RunStatus.CANCELLED, ["count"])
    (run,) = await (await opened(db)).take(5)
    assert run.run_id == second.run_id
    assert await contradictions(db) == []


async def test_a_run_behind_another_can_be_cancelled_where_it_waits(db: Database) -> None:
    first, second = await admitted(db, invocation(ordering_key="k"), invocation(ordering_key="k"))
    await cancel(db, "acme", second.run_id)
    assert await contradictions(db) == []
    (run,) = await (await opened(db)).take(5)
    assert run.run_id == first.run_id


async def test_a_running_run_is_marked_and_its_runner_named(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.lease
    cancelled = await cancel(db, "acme", run.run_id, "enough")
    assert cancelled.status is RunStatus.RUNNING
    assert cancelled.holder
    assert (cancelled.holder.session_id, cancelled.holder.epoch) == (runner.session_id, 1)
    (told,) = await commit_group(db, [CommitItem(run.run_id, 1, 1)])
    assert told == Stored(RunStatus.RUNNING, cancel_requested=True)


async def test_cancelling_twice_keeps_the_first_reason(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.lease
    await cancel(db, "acme", run.run_id, "first")
    await cancel(db, "acme", run.run_id, "second")
    async with db.connection() as connection:
        assert (await get(connection, "acme", run.run_id)).cancel_requested
        reason = await connection.fetchval("SELECT cancel_reason FROM run_state")
    assert reason == "first"


async def test_cancelling_an_ended_run_changes_nothing(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.lease
    await finish(db, run.lease)
    assert (await cancel(db, "acme", run.run_id)).status is RunStatus.SUCCEEDED
    async with db.connection() as connection:
        assert not (await get(connection, "acme", run.run_id)).cancel_requested


async def test_a_cancel_races_a_claim_and_one_of_them_wins(db: Database) -> None:
    runner = await opened(db)
    for _ in range(20):
        (run,) = await admitted(db, invocation())
        cancelled, taken = await asyncio.gather(cancel(db, "acme", run.run_id), runner.take())
        assert (cancelled.status is RunStatus.CANCELLED) == (taken == [])
        if taken:
            assert cancelled.holder or (await status_of(db, run.run_id)) is RunStatus.RUNNING
            await finish(db, taken[0], RunStatus.CANCELLED)
        assert await contradictions(db) == []


async def test_another_tenants_run_is_not_found(db: Database) -> None:
    (run,) = await admitted(db, invocation())
    for tenant, run_id in (("umbrella", run.run_id), ("acme", uuid.uuid4())):
        with pytest.raises(RunNotFound):
            await cancel(db, tenant, run_id)
        with pytest.raises(RunNotFound):
            await retry(db, tenant, run_id)
        async with db.connection() as connection:
            with pytest.raises(RunNotFound):
                await get(connection, tenant, run_id)
    assert await status_of(db, run.run_id) is RunStatus.QUEUED


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.DRIFTED])
async def test_an_ended_run_starts_again_from_its_recorded_steps(db: Database, status: RunStatus) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.lease
    await commit_group(db, [CommitItem(run.run_id, 1, 1, [Record("fetch", b"record")], Charge(steps=1))])
    await commit_group(db, [CommitItem(run.run_id, 1, 2, move=Outcome(status))])
    moved = await retry(db, "acme", run.run_id)
    assert (moved.requeued, moved.pools) == ([run.run_id], ["count@1"])
    assert await contradictions(db) == []
    (again,) = await runner.take()
    assert (again.last_commit, again.attempt, again.epoch > 1) == (2, 1, True)
    assert again.usage.steps == 1
    assert again.remaining_s > 590
    await finish(db, again)
    assert await status_of(db, run.run_id) is RunStatus.SUCCEEDED
    assert await contradictions(db) == []


async def test_a_retried_run_takes_its_old_place_among_those_that_wait(db: Database) -> None:
    runner = await opened(db)
    runs = await admitted(db, *(invocation(ordering_key="k") for _ in range(3)))
    (run,) = await runner.take(5)
    await finish(db, run, RunStatus.FAILED)
    (second,) = await runner.take(5)
    await retry(db, "acme", run.run_id)
    assert await contradictions(db) == []
    await finish(db, second)
    (next_run,) = await runner.take(5)
    assert next_run.run_id == runs[0].run_id


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.SUCCEEDED])
async def test_a_run_that_lives_or_succeeded_is_not_started_again(db: Database, status: RunStatus) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=None if status is RunStatus.QUEUED else runner.idle())
    if status is RunStatus.SUCCEEDED:
        assert run.lease
        await finish(db, run.lease)
    with pytest.raises(RunNotRetryable) as refusal:
        await retry(db, "acme", run.run_id)
    assert refusal.value.facts["status"] == status.name
    assert await contradictions(db) == []


async def test_a_run_that_spent_its_budget_needs_a_larger_one(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(limits=Limits(max_steps=1)), on=runner.idle())
    end = Outcome(RunStatus.PARTIAL, exhausted=Dimension.STEPS)
    await commit_group(db, [CommitItem(run.run_id, 1, 1, [Record("a", b"")], Charge(steps=1), move=end)])
    with pytest.raises(RunNotRetryable, match="larger"):
        await retry(db, "acme", run.run_id)
    await retry(db, "acme", run.run_id, Limits(max_steps=2))
    (again,) = await runner.take()
    assert again.limits.max_steps == 2


async def test_a_retry_does_not_pass_a_full_queue(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, max_queued) VALUES ('acme', 1)")
    (run,) = await admitted(db, invocation())
    await cancel(db, "acme", run.run_id)
    await admitted(db, invocation())
    with pytest.raises(QueueFull):
        await retry(db, "acme", run.run_id)
    assert await contradictions(db) == []
