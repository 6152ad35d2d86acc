"""Children: started under their parent's lease, lent what they may spend, and heard of when they end."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import (
    BudgetExceeded,
    Fenced,
    IdempotencyKeyReused,
    InvalidField,
    QueueFull,
    RunNotFound,
    TooManyChildren,
)
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Park, Refused, Requeue, Stored
from holdfast.ledger.domain.child import DEEPEST, MOST
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.due import fire
from holdfast.ledger.mailbox import signal
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.retry import retry
from holdfast.ledger.run_list import RunFilter, list_runs
from holdfast.ledger.session import held
from holdfast.ledger.spawn import OnParentEnd, Parent, Spawned, spawn
from holdfast.ledger.values import Failure, Invocation, Leased, Limits, Outcome, Usage
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    give_up,
    invocation,
    open_ledger,
    opened,
    status_of,
)

AMPLE = Limits(max_steps=100, max_tools=50, max_tokens=1000, max_context=800, deadline_ms=60_000)
PART = Limits(max_steps=10, max_tools=5, max_tokens=100)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A ledger that agrees with itself after the test."""
    async with open_ledger(database_url) as db:
        yield db
        assert await contradictions(db) == []


@pytest.fixture
async def runner(db: Database) -> Runner:
    """A runner with an open session."""
    return await opened(db)


async def leased(runner: Runner, **more: Any) -> Leased:
    """Return a run with a budget, held by the runner."""
    (run,) = await admitted(runner.db, invocation(**{"limits": AMPLE} | more))
    return await taken(runner, run.run_id)


async def taken(runner: Runner, run_id: uuid.UUID) -> Leased:
    """Lease what waits, and return one of it."""
    (found,) = [run for run in await runner.take(99) if run.run_id == run_id]
    return found


def child(**more: Any) -> Invocation:
    """Return a child's envelope."""
    return invocation(**{"limits": PART} | more)


async def born(
    db: Database, parent: Leased, policy: OnParentEnd = OnParentEnd.CANCEL, **more: Any
) -> uuid.UUID:
    """Start a child."""
    spawned = await spawn(db, child(**more), Parent(parent.run_id, parent.epoch, policy))
    assert spawned.admitted.created
    return spawned.admitted.run_id


async def spend(db: Database, run: Leased, **charge: int) -> Leased:
    """Charge a run, and insist that it lands."""
    answer = await charged(db, run, **charge)
    assert isinstance(answer, Stored), answer
    return replace(run, last_commit=run.last_commit + 1)


async def charged(db: Database, run: Leased, **charge: int) -> Any:
    """Charge a run, if it lands."""
    item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, charge=Charge(**charge))
    return (await commit_group(db, [item]))[0]


async def parked(db: Database, run: Leased, *keys: str) -> None:
    """Let a run rest until a signal."""
    item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=Park(keys))
    assert isinstance((await commit_group(db, [item]))[0], Stored)


async def books(db: Database, run_id: uuid.UUID) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what a run has spent and what it has lent, of steps, tools and tokens."""
    (row,) = await fetch(db, "SELECT * FROM run_state WHERE run_id = $1", run_id)
    names = ("steps", "tools", "tokens")
    return tuple(row[name] for name in names), tuple(row[f"lent_{name}"] for name in names)


async def letters(db: Database, run_id: uuid.UUID) -> dict[str, Any]:
    """Return what waits in a mailbox, by key."""
    rows = await fetch(db, "SELECT key, payload FROM mailbox WHERE run_id = $1 AND NOT consumed", run_id)
    return {row["key"]: json.loads(row["payload"]) for row in rows}


async def test_a_child_is_queued_and_what_it_may_spend_is_set_aside(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    run_id = await born(db, parent)
    assert await status_of(db, run_id) is RunStatus.QUEUED
    assert await books(db, parent.run_id) == ((0, 0, 0), (10, 5, 100))
    one = await taken(runner, run_id)
    assert (one.limits.max_steps, one.limits.max_context) == (10, 800)
    (again,) = [run for run in await _held(runner) if run.run_id == parent.run_id]
    assert again.lent == Usage(10, 5, 100)


async def _held(runner: Runner) -> list[Leased]:
    async with runner.db.connection() as connection:
        return await held(connection, [runner.session_id])


async def test_a_repeated_spawn_finds_the_child_and_lends_nothing_more(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    wanted = child(idempotency_key="k")
    calls = [
        spawn(db, replace(wanted, run_id=uuid.uuid4()), Parent(parent.run_id, parent.epoch)) for _ in range(4)
    ]
    answers: list[Spawned] = await asyncio.gather(*calls)
    assert len({answer.admitted.run_id for answer in answers}) == 1
    assert sum(answer.admitted.created for answer in answers) == 1
    assert await books(db, parent.run_id) == ((0, 0, 0), (10, 5, 100))
    await give_up(db, parent, Requeue())
    later = await taken(runner, parent.run_id)
    found = await spawn(db, wanted, Parent(later.run_id, later.epoch))
    assert (found.admitted.created, found.epoch) == (False, parent.epoch)
    with pytest.raises(IdempotencyKeyReused):
        await spawn(db, replace(wanted, fingerprint=b"other"), Parent(later.run_id, later.epoch))
    stranger = await leased(runner)
    with pytest.raises(InvalidField):
        await spawn(db, wanted, Parent(stranger.run_id, stranger.epoch))


async def test_only_who_holds_the_parent_starts_its_children(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    for epoch in (parent.epoch - 1, parent.epoch + 1):
        with pytest.raises(Fenced):
            await spawn(db, child(), Parent(parent.run_id, epoch))
    with pytest.raises(RunNotFound):
        await spawn(db, child(tenant="other"), Parent(parent.run_id, parent.epoch))
    with pytest.raises(RunNotFound):
        await spawn(db, child(), Parent(uuid.uuid4(), 1))
    await finish(db, parent)
    with pytest.raises(Fenced):
        await spawn(db, child(), Parent(parent.run_id, parent.epoch))


async def test_a_parent_lends_no_more_than_it_has_and_keeps_two_steps(db: Database, runner: Runner) -> None:
    parent = await spend(db, await leased(runner), steps=8, tools=10, tokens=400)
    named = Parent(parent.run_id, parent.epoch)
    refused = {"STEPS": Limits(max_steps=91), "TOOLS": Limits(max_tools=41), "TOKENS": Limits(max_tokens=601)}
    for dimension, limits in (refused | {"CONTEXT": Limits(max_context=801)}).items():
        with pytest.raises(BudgetExceeded) as told:
            await spawn(db, child(limits=limits), named)
        assert told.value.facts["dimension"] == dimension
    everything = Limits(max_steps=90, max_tools=40, max_tokens=600)
    await spawn(db, child(limits=everything), named)
    with pytest.raises(BudgetExceeded):
        await spawn(db, child(), named)
    parent = await spend(db, parent, steps=2)
    for charge in ({"steps": 1}, {"tools": 1, "steps": 0}, {"tokens": 1}):
        answer = await charged(db, parent, **charge)
        assert isinstance(answer, Refused)
        assert isinstance(answer.fault, BudgetExceeded)


async def test_a_child_that_asks_for_nothing_gets_its_share(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    await born(db, parent, limits=Limits())
    assert await books(db, parent.run_id) == ((0, 0, 0), (98 // 16, 50 // 16, 1000 // 16))


async def test_a_child_has_no_later_deadline_than_its_parent_unless_it_outlives_it(
    db: Database, runner: Runner
) -> None:
    parent = await leased(runner)
    longer = Limits(deadline_ms=3_600_000, max_steps=1, max_tools=1, max_tokens=1)
    bound = await born(db, parent, limits=longer)
    free = await born(db, parent, OnParentEnd.CONTINUE, limits=longer)
    rows = await fetch(db, "SELECT run_id, deadline_time FROM run_state")
    deadline = {row["run_id"]: row["deadline_time"] for row in rows}
    assert deadline[bound] <= deadline[parent.run_id] < deadline[free]


async def test_a_run_has_a_bound_of_children_and_of_ancestors(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    for column, most, limit in (("children", MOST, "children"), ("depth", DEEPEST, "depth")):
        set_to = f"UPDATE run_state SET {column} = $2 WHERE run_id = $1"
        await execute(db, set_to, parent.run_id, most)
        with pytest.raises(TooManyChildren) as told:
            await born(db, parent)
        assert told.value.facts["limit"] == limit
        await execute(db, set_to, parent.run_id, most - 1)
        await born(db, parent)
        await execute(db, set_to, parent.run_id, 0)
    (deepest,) = await fetch(db, "SELECT max(depth) AS depth FROM run_state")
    assert deepest["depth"] == DEEPEST


async def test_a_child_that_would_wait_for_its_parent_is_refused(db: Database, runner: Runner) -> None:
    parent = await leased(runner, ordering_key="k")
    with pytest.raises(InvalidField):
        await born(db, parent, ordering_key="k")
    await born(db, parent, ordering_key="other")


async def test_a_spawn_that_finds_the_queue_full_lends_nothing(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    await execute(db, "UPDATE tenant SET max_queued = 0")
    with pytest.raises(QueueFull):
        await born(db, parent)
    assert await books(db, parent.run_id) == ((0, 0, 0), (0, 0, 0))


async def test_a_childs_end_wakes_its_parent_and_settles_what_it_was_lent(
    db: Database, runner: Runner
) -> None:
    parent = await leased(runner)
    run_id = await born(db, parent)
    one = await spend(db, await taken(runner, run_id), steps=3, tools=1, tokens=70, context=60)
    await parked(db, parent, f"child:{run_id}")
    pools: list[str] = []
    mail: list[uuid.UUID] = []
    item = CommitItem(run_id, one.epoch, one.last_commit + 1, move=Outcome(RunStatus.SUCCEEDED, b'{"a": 1}'))
    await commit_group(db, [item], on_ready=pools.append, on_mail=mail.append)
    assert pools == ["count@1"]
    assert mail == [parent.run_id]
    assert await status_of(db, parent.run_id) is RunStatus.QUEUED
    assert await books(db, parent.run_id) == ((3, 1, 70), (0, 0, 0))
    assert await letters(db, parent.run_id) == {
        f"child:{run_id}": {
            "run_id": str(run_id),
            "status": "SUCCEEDED",
            "result": {"a": 1},
            "failure": None,
            "exhausted": None,
            "returned": {"steps": 10, "tools": 5, "tokens": 100},
            "charged": {"steps": 3, "tools": 1, "tokens": 70},
            "usage": {"steps": 3, "tools": 1, "tokens": 70, "context": 60},
        }
    }


async def test_every_way_a_child_ends_is_told(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    failed, poisoned, late, lost = [await born(db, parent, max_attempts=1) for _ in range(4)]
    running = {run.run_id: run for run in await runner.take(99)}
    queued = await born(db, parent)
    await finish(db, running[failed], RunStatus.FAILED)
    await give_up(db, running[poisoned], Requeue(Failure("BROKEN", "it broke")))
    past = "UPDATE run_state SET deadline_time = now() - interval '9 s' WHERE run_id = $1"
    await execute(db, past, late)
    await execute(db, "UPDATE timer SET due_time = now() - interval '1 s' WHERE run_id = $1", late)
    fired = await fire(db)
    assert fired.moved.mail == [parent.run_id]
    await cancel(db, "acme", queued)
    await cancel(db, "acme", lost)
    await give_up(db, running[lost], Requeue(blameless=True))
    told = {key.partition(":")[2]: letter for key, letter in (await letters(db, parent.run_id)).items()}
    assert {run_id: letter["status"] for run_id, letter in told.items()} == {
        str(failed): "FAILED",
        str(poisoned): "DEAD_LETTERED",
        str(late): "PARTIAL",
        str(queued): "CANCELLED",
        str(lost): "CANCELLED",
    }
    assert told[str(poisoned)]["failure"]["reason"] == "BROKEN"
    assert told[str(late)]["exhausted"] == "DEADLINE"
    assert await books(db, parent.run_id) == ((0, 0, 0), (0, 0, 0))


async def test_a_signal_under_a_childs_id_does_not_keep_it_from_ending(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    run_id = await born(db, parent)
    await signal(db, "acme", parent.run_id, key="input", payload=b"1", signal_id=str(run_id))
    assert isinstance(await finish(db, await taken(runner, run_id)), Stored)
    assert (await letters(db, parent.run_id))[f"child:{run_id}"]["status"] == "SUCCEEDED"


async def test_children_go_with_their_parent_level_by_level(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    mine, grown = await born(db, parent), await born(db, parent)
    free = await born(db, parent, OnParentEnd.CONTINUE)
    running = {run.run_id: run for run in await runner.take(99)}
    below = await born(db, running[mine], limits=Limits(max_steps=1, max_tools=1, max_tokens=1))
    await parked(db, running[mine], "never")
    await finish(db, parent)
    (asked,) = await fetch(
        db, "SELECT cancel_requested, cancel_reason FROM run_state WHERE run_id = $1", grown
    )
    assert asked["cancel_requested"]
    assert await status_of(db, grown) is RunStatus.RUNNING  # its runner is told
    assert await status_of(db, mine) is RunStatus.PARKED
    assert (await cancel_orphans(db)).ended == [mine]
    assert await status_of(db, below) is RunStatus.QUEUED
    assert (await cancel_orphans(db)).ended == [below]
    assert (await cancel_orphans(db)).count == 0
    await finish(db, running[grown], RunStatus.CANCELLED)
    assert await status_of(db, free) is RunStatus.RUNNING
    assert await books(db, parent.run_id) == ((0, 0, 0), (10, 5, 100))
    await finish(db, await spend(db, running[free], steps=4))
    assert await books(db, parent.run_id) == ((4, 0, 0), (0, 0, 0))


async def test_a_parent_that_rests_takes_its_children_with_it_when_it_is_cancelled(
    db: Database, runner: Runner
) -> None:
    parent = await leased(runner)
    run_id = await born(db, parent)
    await parked(db, parent, f"child:{run_id}")
    await cancel(db, "acme", parent.run_id)
    assert (await cancel_orphans(db)).ended == [run_id]
    assert await status_of(db, run_id) is RunStatus.CANCELLED


async def test_what_goes_on_below_an_ended_child_is_lent_by_its_grandparent(
    db: Database, runner: Runner
) -> None:
    parent = await leased(runner)
    middle = await taken(runner, await born(db, parent))
    below = await born(
        db, middle, OnParentEnd.CONTINUE, limits=Limits(max_steps=2, max_tools=2, max_tokens=30)
    )
    await finish(db, await spend(db, middle, steps=1, tokens=50))
    assert await books(db, parent.run_id) == ((1, 0, 50), (2, 2, 30))
    assert (await letters(db, parent.run_id))[f"child:{middle.run_id}"]["returned"] == {
        "steps": 8,
        "tools": 3,
        "tokens": 70,
    }
    await finish(db, await spend(db, await taken(runner, below), steps=2, tokens=20))
    assert await books(db, parent.run_id) == ((3, 0, 70), (0, 0, 0))
    assert await books(db, middle.run_id) == ((1, 0, 50), (0, 0, 0))


async def test_a_family_that_ends_in_one_group_is_settled_from_below(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    middle = await taken(runner, await born(db, parent))
    below = await taken(
        runner, await born(db, middle, limits=Limits(max_steps=2, max_tools=1, max_tokens=30))
    )
    below, middle = await spend(db, below, steps=2), await spend(db, middle, steps=3)
    end = Outcome(RunStatus.SUCCEEDED, b"1")
    group = [CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=end) for run in (middle, below)]
    assert all(isinstance(answer, Stored) for answer in await commit_group(db, group))
    assert await books(db, parent.run_id) == ((5, 0, 0), (0, 0, 0))


async def test_a_child_that_is_retried_spends_what_is_its_own(db: Database, runner: Runner) -> None:
    parent = await leased(runner)
    run_id = await born(db, parent)
    await finish(db, await spend(db, await taken(runner, run_id), steps=1), RunStatus.FAILED)
    await retry(db, "acme", run_id)
    await finish(db, await spend(db, await taken(runner, run_id), steps=2))
    assert await books(db, parent.run_id) == ((1, 0, 0), (0, 0, 0))
    rows = await fetch(db, "SELECT payload FROM mailbox WHERE run_id = $1 ORDER BY sequence", parent.run_id)
    first, second = [json.loads(row["payload"]) for row in rows]
    assert (first["status"], first["charged"]["steps"], first["returned"]["steps"]) == ("FAILED", 1, 10)
    assert (second["status"], second["charged"]["steps"], second["returned"]["steps"]) == ("SUCCEEDED", 0, 0)


async def test_a_parent_that_is_retried_hears_again_how_its_children_have_ended(
    db: Database, runner: Runner
) -> None:
    parent = await leased(runner)
    told, left = await born(db, parent), await born(db, parent)
    free = await born(db, parent, OnParentEnd.CONTINUE)
    running = {run.run_id: run for run in await runner.take(99)}
    await finish(db, await spend(db, running[told], steps=1))
    await finish(db, parent, RunStatus.FAILED)
    await finish(db, running[left], RunStatus.CANCELLED)
    await retry(db, "acme", parent.run_id)
    await taken(runner, parent.run_id)
    found = await letters(db, parent.run_id)
    assert {key: letter["status"] for key, letter in found.items()} == {
        f"child:{told}": "SUCCEEDED",
        f"child:{left}": "CANCELLED",
    }
    assert found[f"child:{told}"]["charged"]["steps"] == 0  # it was when it ended
    await finish(db, running[free])
    assert f"child:{free}" in await letters(db, parent.run_id)
    assert await books(db, parent.run_id) == ((1, 0, 0), (0, 0, 0))


async def test_an_end_and_a_park_at_once_never_leave_a_parent_asleep(db: Database, runner: Runner) -> None:
    for _ in range(10):
        parent = await leased(runner)
        one = await taken(runner, await born(db, parent))
        await asyncio.gather(parked(db, parent, f"child:{one.run_id}"), finish(db, one))
        assert await status_of(db, parent.run_id) is RunStatus.QUEUED


async def test_a_spawn_and_the_parents_end_at_once_leave_no_child_behind(
    db: Database, runner: Runner
) -> None:
    for _ in range(10):
        parent = await leased(runner)
        wanted = child()
        answers = await asyncio.gather(
            spawn(db, wanted, Parent(parent.run_id, parent.epoch)), finish(db, parent), return_exceptions=True
        )
        if not isinstance(answers[0], Fenced):
            await cancel_orphans(db)
            assert await status_of(db, wanted.run_id) is RunStatus.CANCELLED


async def test_children_are_listed_by_their_parent(db: Database, runner: Runner) -> None:
    parent, other = await leased(runner), await leased(runner)
    mine = [await born(db, parent) for _ in range(3)]
    await born(db, other)
    page, cursor = await list_runs(db, "acme", RunFilter(parent_run_id=parent.run_id), limit=2)
    rest, _ = await list_runs(db, "acme", RunFilter(parent_run_id=parent.run_id), limit=2, after=cursor)
    assert [run.run_id for run in page + rest] == mine[::-1]
    assert {run.parent_run_id for run in page + rest} == {parent.run_id}
    assert (await list_runs(db, "other", RunFilter(parent_run_id=parent.run_id), limit=2))[0] == []
