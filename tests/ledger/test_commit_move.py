"""A commit that moves its run takes it out of the lease and hands on what it held, in one transaction."""

import asyncio
import json
import uuid

import pytest

from holdfast.kit.db import Database
from holdfast.ledger import commit_move, commit_sql
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, CommitResult, Effect, Refused, Requeue, Stored
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.session import hand_back
from holdfast.ledger.values import Failure, Outcome
from tests.support.commit import Floor, commit, lease_ref
from tests.support.outbox import make_destination

DONE = Outcome(RunStatus.SUCCEEDED, b'"done"')
BROKEN = Failure("ValueError", "no such ticket", "fetch", 3)


@pytest.fixture
async def floor(db: Database) -> Floor:
    return await Floor(db).open()


async def one(db: Database, item: CommitItem) -> CommitResult:
    return (await commit_group(db, [item]))[0]


def effect(destination: str = "letters", key: str | None = None) -> Effect:
    return Effect(uuid.uuid4(), destination, key or str(uuid.uuid4()), b'{"n":1}')


async def counters_agree(floor: Floor) -> None:
    """Hold the counters of every tenant against the rows they count."""
    rows = await floor.fetch(
        """SELECT t.tenant, t.in_flight, t.queued,
                  (SELECT count(*) FROM lease l WHERE l.tenant = t.tenant) AS leases,
                  (SELECT count(*) FROM run_state s WHERE s.tenant = t.tenant AND s.status = 1) AS waiting
           FROM tenant t"""
    )
    for row in rows:
        assert (row["in_flight"], row["queued"]) == (row["leases"], row["waiting"])
    pools = await floor.fetch(
        """SELECT p.ready,
                  (SELECT count(*) FROM ready r WHERE (r.pool, r.tenant) = (p.pool, p.tenant)) AS rows,
                  p.capped, t.in_flight >= t.max_in_flight AS full
           FROM tenant_pool p JOIN tenant t USING (tenant)"""
    )
    for pool in pools:
        assert pool["ready"] == pool["rows"]
        assert pool["ready"] == 0 or pool["capped"] == pool["full"]


async def test_an_end_writes_the_outcome_and_frees_everything(db: Database, floor: Floor) -> None:
    runs = await floor.lease(12)
    ends = [commit(run, 1, keys=["last"], events=2, move=DONE) for run in runs]
    assert await commit_group(db, ends) == [Stored(RunStatus.SUCCEEDED, cancel_requested=False)] * 12
    for run in runs:
        row = await floor.row(run.run_id)
        assert row["status"] == RunStatus.SUCCEEDED
        assert row["end_time"] is not None
        assert (row["steps"], row["last_sequence"]) == (1, 3)
    outcomes = await floor.fetch("SELECT status, result, failure, exhausted FROM run_outcome")
    assert [tuple(row) for row in outcomes] == [(5, b'"done"', None, 0)] * 12
    assert await floor.fetch("SELECT FROM lease") == []
    assert await floor.fetch("SELECT FROM timer") == []
    await counters_agree(floor)


async def test_an_end_sent_again_is_acknowledged(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    end = commit(run, 1, move=DONE)
    assert [await one(db, end) for _ in range(3)] == [Stored(RunStatus.SUCCEEDED, cancel_requested=False)] * 3
    assert isinstance(await one(db, commit(run, 2, keys=["late"])), Refused)
    await counters_agree(floor)


async def test_the_same_end_on_many_connections_lands_once(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    results = await asyncio.gather(*(one(db, commit(run, 1, move=DONE)) for _ in range(8)))
    assert all(isinstance(result, Stored) for result in results)
    await counters_agree(floor)


async def test_a_partial_end_names_the_dimension(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    await one(db, commit(run, 1, move=Outcome(RunStatus.PARTIAL, b"null", None, Dimension.TOKENS)))
    (row,) = await floor.fetch("SELECT status, exhausted FROM run_outcome")
    assert tuple(row) == (RunStatus.PARTIAL, Dimension.TOKENS)


async def test_the_end_of_a_run_lets_the_next_of_its_key_go(db: Database, floor: Floor) -> None:
    first, second, third = await floor.admit(3, ordering_key="loan-7")
    woken: list[str] = []
    for expected in (first, second, third):
        taken = await floor.take(3)
        assert [run.run_id for run in taken] == [expected]
        await commit_group(db, [commit(taken[0], 1, move=DONE)], on_ready=woken.append)
        await counters_agree(floor)
    assert woken == ["count", "count"]
    assert await floor.fetch("SELECT FROM lane") == []


async def test_the_end_of_a_run_at_the_cap_lets_the_tenant_be_served_again(
    db: Database, floor: Floor
) -> None:
    await floor.lease()
    await floor.execute("UPDATE tenant SET max_in_flight = 3")
    await floor.admit(4)
    taken = await floor.take(9)
    assert len(taken) == 2
    assert await floor.take(9) == []
    await commit_group(db, [commit(run, 1, move=DONE) for run in taken])
    await counters_agree(floor)
    assert len(await floor.take(9)) == 2


async def test_a_failed_attempt_goes_back_to_the_front_and_keeps_its_steps(
    db: Database, floor: Floor
) -> None:
    (run,) = await floor.lease(max_attempts=2)
    await floor.admit(2)
    woken: list[str] = []
    move = Requeue(BROKEN)
    item = commit(run, 1, keys=["fetch"], events=1, move=move)
    (result,) = await commit_group(db, [item], on_ready=woken.append)
    assert result == Stored(RunStatus.QUEUED, cancel_requested=False)
    assert await one(db, item) == result
    row = await floor.row(run.run_id)
    assert json.loads(row["last_failure"])["reason"] == "ValueError"
    assert woken == [row["pool"]]
    await counters_agree(floor)
    (note,) = await floor.fetch("SELECT note FROM transcript WHERE first_sequence = 3 AND note IS NOT NULL")
    told = json.loads(note["note"])
    assert (told["kind"], told["epoch"], told["failure"]["message"]) == ("requeued", 1, "no such ticket")
    taken = await floor.take(3)
    (again,) = [held for held in taken if held.run_id == run.run_id]
    assert (again.attempt, again.epoch, again.last_commit, again.last_sequence) == (2, 2, 1, 3)
    result = await one(db, commit(again, 2, move=move))
    assert result == Stored(RunStatus.DEAD_LETTERED, cancel_requested=False)
    (outcome,) = await floor.fetch("SELECT status, failure FROM run_outcome")
    assert outcome["status"] == RunStatus.DEAD_LETTERED
    assert json.loads(outcome["failure"])["step"] == "fetch"
    await counters_agree(floor)


async def test_a_delayed_requeue_waits_for_its_timer(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    await one(db, commit(run, 1, move=Requeue(BROKEN, delay=60.0)))
    assert await floor.take(3) == []
    (timer,) = await floor.fetch("SELECT due_time FROM timer WHERE kind = 2")
    (note,) = await floor.fetch("SELECT note FROM transcript WHERE note->>'kind' = 'requeued'")
    assert timer["due_time"] is not None
    assert "not_before" in json.loads(note["note"])
    await counters_agree(floor)


async def test_a_requeued_run_keeps_its_ordering_key(db: Database, floor: Floor) -> None:
    first, _ = await floor.admit(2, ordering_key="loan-7")
    (held,) = await floor.take(2)
    await one(db, commit(held, 1, move=Requeue(BROKEN)))
    assert [run.run_id for run in await floor.take(2)] == [first]


async def test_a_blameless_requeue_does_not_count_the_attempt(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease(max_attempts=1)
    for epoch in range(1, 4):
        assert (run.attempt, run.epoch) == (1, epoch)
        result = await one(db, commit(run, epoch, keys=["k"], move=Requeue(blameless=True)))
        assert result == Stored(RunStatus.QUEUED, cancel_requested=False)
        (run,) = await floor.take()
    steps = await floor.fetch("SELECT attempt FROM checkpoint")
    assert [step["attempt"] for step in steps] == [1, 1, 1]


async def test_a_run_that_shall_be_cancelled_ends_instead_of_being_requeued(
    db: Database, floor: Floor
) -> None:
    (run,) = await floor.lease()
    await floor.execute("UPDATE run_state SET cancel_requested = true, cancel_reason = 'enough'")
    result = await one(db, commit(run, 1, move=Requeue(BROKEN)))
    assert result == Stored(RunStatus.CANCELLED, cancel_requested=True)
    (outcome,) = await floor.fetch("SELECT failure FROM run_outcome")
    assert json.loads(outcome["failure"])["message"] == "enough"
    await counters_agree(floor)


async def test_effects_become_durable_with_their_commit(db: Database, floor: Floor) -> None:
    await make_destination(db, "letters")
    run, ending = await floor.lease(2)
    stays = commit(run, 1, keys=["write"], effects=[effect(key="a")])
    ends = commit(ending, 1, effects=[effect(key="b")], move=DONE)
    assert [r.status for r in await commit_group(db, [stays, ends]) if isinstance(r, Stored)] == [2, 5]
    assert all(isinstance(result, Stored) for result in await commit_group(db, [stays, ends]))
    rows = await floor.fetch("SELECT tenant, run_id, step FROM effect ORDER BY step")
    assert [tuple(row) for row in rows] == [
        ("default", ending.run_id, ""),
        ("default", run.run_id, "write"),
    ]


async def test_an_effect_without_a_destination_refuses_its_commit_alone_and_whole(
    db: Database, floor: Floor
) -> None:
    await make_destination(db, "letters")
    runs = await floor.lease(7)
    group = [commit(run, 1, keys=["k"], effects=[effect()]) for run in runs]
    group[3] = commit(runs[3], 1, keys=["k"], effects=[effect("nowhere")], move=DONE)
    results = await commit_group(db, group)
    assert [at for at, result in enumerate(results) if isinstance(result, Refused)] == [3]
    assert isinstance(results[3], Refused)
    assert results[3].fault.reason == "DESTINATION_NOT_FOUND"
    row = await floor.row(runs[3].run_id)
    assert (row["status"], row["last_commit"]) == (RunStatus.RUNNING, 0)
    assert len(await floor.fetch("SELECT FROM effect")) == 6


async def test_a_zombie_neither_ends_its_run_nor_releases_effects(db: Database, floor: Floor) -> None:
    await make_destination(db, "letters")
    (old,) = await floor.lease()
    await hand_back(db, floor.session_id, [lease_ref(old)])
    (heir,) = await floor.take()
    for move in (DONE, Requeue(BROKEN), None):
        result = await one(db, commit(old, 1, effects=[effect()], move=move))
        assert isinstance(result, Refused)
        assert result.fault.reason == "FENCED"
    assert isinstance(await one(db, commit(heir, 1, move=DONE)), Stored)
    assert await floor.fetch("SELECT FROM effect") == []
    await counters_agree(floor)


async def test_without_the_fence_a_zombie_does_end_the_run_of_another(
    db: Database, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_move, "_FINISH", commit_sql.finish(fence="s.status = 2"))
    (old,) = await floor.lease()
    await hand_back(db, floor.session_id, [lease_ref(old)])
    await floor.take()
    assert isinstance(await one(db, commit(old, 1, move=DONE)), Stored)


async def test_ends_and_requeues_of_many_runs_from_many_sides_keep_the_counters(
    db: Database, floor: Floor
) -> None:
    await floor.admit(30, ordering_key="")
    for lane in range(4):
        await floor.admit(5, ordering_key=f"lane-{lane}")
    ended = 0
    while taken := await floor.take(20):

        async def finish(at: int) -> int:
            run = taken[at]
            move = DONE if at % 3 or run.attempt > 2 else Requeue(BROKEN)
            (result,) = await commit_group(db, [commit(run, run.last_commit + 1, move=move)])
            assert isinstance(result, Stored)
            return result.status is RunStatus.SUCCEEDED

        ended += sum(await asyncio.gather(*(finish(at) for at in range(len(taken)))))
        await counters_agree(floor)
    assert ended == 50
