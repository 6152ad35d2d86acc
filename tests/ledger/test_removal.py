"""A run is removed when its tenant's retention is over, with all that hangs on it, and nothing else is."""

import asyncio
import uuid
from dataclasses import replace
from functools import partial
from typing import Any

import asyncpg
import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import RunNotFound
from holdfast.ledger import fork, history, inspect, tenant
from holdfast.ledger.admission import admit
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import Effect, Refused
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.removal import Removed, remove
from holdfast.ledger.retry import retry
from holdfast.ledger.spawn import OnParentEnd, Parent, spawn
from holdfast.ledger.values import Admitted, Leased, Limits
from tests.kit.until import until
from tests.support.approval import ask
from tests.support.commit import Floor, commit
from tests.support.ledger import contradictions, execute, fetch, finish, invocation, status_of
from tests.support.outbox import make_destination
from tests.support.retention import age, drop, ended_ago, remove_all, traces

SERVICE, WORKER, WORKFLOW, BATCH = 1, 2, 3, 4
HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
async def floor(db: Database) -> Floor:
    return await Floor(db).open()


async def keep(db: Database, name: str = "default", **shapes: float | None) -> None:
    """Set for how long runs are kept, by shape."""
    limits = {f"keep_{shape}_s": seconds for shape, seconds in shapes.items()}
    await tenant.change(db, name, limits, make=True)


async def ended(
    db: Database, floor: Floor, ago: float, *, status: RunStatus = RunStatus.SUCCEEDED, **more: Any
) -> Leased:
    """Return a run of two steps that ended that long ago."""
    (run,) = await floor.lease(**more)
    await commit_group(db, [commit(run, 1, keys=["one", "two"], events=2, first=2)])
    await finish(db, replace(run, last_commit=1), status)
    await ended_ago(db, ago, run.run_id)
    return run


async def there(db: Database, *runs: Leased) -> list[bool]:
    """Say of each run whether it is there."""
    return [bool(await traces(db, run.run_id)) for run in runs]


async def test_a_run_goes_with_all_that_hangs_on_it_and_the_audit_stays(db: Database, floor: Floor) -> None:
    await keep(db, batch=HOUR)
    await make_destination(db, "letters")
    (run,) = await floor.lease(shape=BATCH, limits=Limits(deadline_ms=86_400_000, max_steps=9))
    sent = Effect(uuid.uuid4(), "letters", "invoice-7", b"{}")
    await commit_group(db, [commit(run, 1, keys=["one"], events=1, first=2, effects=[sent])])
    gate = await ask(db, run, "sign")
    await finish(db, replace(run, last_commit=1))
    await execute(db, "UPDATE effect SET status = 3")
    await execute(db, "INSERT INTO effect_attempt VALUES ($1, 1, now(), 200, NULL, 5)", sent.effect_id)
    await execute(db, "DELETE FROM effect_due")
    await ended_ago(db, HOUR + 1, run.run_id)
    assert await remove_all(db) == 1
    assert await traces(db, run.run_id) == set()
    assert await traces(db, sent.effect_id) == set()
    assert await traces(db, gate) == {"approval_audit.approval_id"}
    assert await contradictions(db) == []


async def test_only_runs_of_the_tenant_and_shape_that_have_ended_long_enough_ago_go(
    db: Database, floor: Floor
) -> None:
    await keep(db, batch=HOUR, workflow=10 * DAY)
    over = await ended(db, floor, HOUR + 5, shape=BATCH)
    young = await ended(db, floor, HOUR - 60, shape=BATCH)
    longer = await ended(db, floor, DAY, shape=WORKFLOW)
    unnamed = await ended(db, floor, 5000 * DAY, shape=SERVICE)
    foreign = await ended(db, floor, 5000 * DAY, shape=BATCH, tenant="umbrella")
    (running,) = await floor.lease(shape=BATCH)
    (queued,) = await floor.admit(shape=BATCH)
    await execute(db, "UPDATE run_state SET create_time = now() - interval '5000 days'")
    assert await remove_all(db) == 1
    assert await there(db, over, young, longer, unnamed, foreign, running) == [False] + [True] * 5
    assert await status_of(db, queued) is RunStatus.QUEUED
    assert await contradictions(db) == []
    await finish(db, running)
    assert await remove_all(db) == 0


async def test_a_run_that_was_handed_off_is_kept_as_a_worker(db: Database, floor: Floor) -> None:
    await keep(db, worker=HOUR)
    run, stays = await floor.lease(2, handoff=Limits(max_steps=20))
    await commit_group(db, [commit(run, 1, handoff=True)])
    await finish(db, replace(run, last_commit=1))
    await finish(db, stays)
    await ended_ago(db, DAY, run.run_id, stays.run_id)
    assert await remove(db) == Removed(removed=1)
    assert await there(db, run, stays) == [False, True]


async def test_a_change_holds_for_what_has_ended_before(db: Database, floor: Floor) -> None:
    run = await ended(db, floor, 2 * DAY, shape=WORKER)
    assert await remove_all(db) == 0
    await keep(db, worker=3 * DAY)
    assert await remove_all(db) == 0
    await keep(db, worker=None, service=DAY)
    assert await remove_all(db) == 0
    await keep(db, worker=DAY)
    assert await remove_all(db) == 1
    assert await there(db, run) == [False]


async def test_a_run_of_before_is_sorted_by_its_shape_once(db: Database, floor: Floor) -> None:
    await keep(db, service=HOUR, workflow=9 * DAY)
    short = await ended(db, floor, DAY, shape=SERVICE)
    long = await ended(db, floor, DAY, shape=WORKFLOW)
    handed = await ended(db, floor, DAY, shape=SERVICE)
    await execute(db, "UPDATE run_state SET shape = 0")
    await execute(db, "UPDATE run_state SET handed_off = true WHERE run_id = $1", handed.run_id)
    assert await remove(db) == Removed(removed=1, put_off=2)
    assert await remove(db) == Removed()
    assert await there(db, short, long, handed) == [False, True, True]
    shapes = await fetch(db, "SELECT shape FROM run_state ORDER BY shape")
    assert [row["shape"] for row in shapes] == [WORKER, WORKFLOW]


async def test_a_run_under_a_longer_retention_keeps_its_day_and_no_other(db: Database, floor: Floor) -> None:
    await keep(db, workflow=90 * DAY, batch=DAY)
    kept = await ended(db, floor, 40 * DAY, shape=WORKFLOW)
    beside = await ended(db, floor, 40 * DAY, shape=SERVICE)
    others = [await ended(db, floor, 40 * DAY, tenant=name) for name in ("default", "umbrella")]
    for run, days in ((kept, 41), (beside, 41), (others[0], 42), (others[1], 43)):
        await age(db, run.run_id, days)
    assert await drop(db) == [43, 42]
    assert len((await history.list_steps(db, "default", kept.run_id, after_position=0, limit=9)).steps) == 2
    await keep(db, workflow=35 * DAY)
    assert await remove_all(db) == 1
    assert await drop(db) == [41]
    async with db.connection() as connection:
        assert (await inspect.get(connection, "default", beside.run_id)).status is RunStatus.SUCCEEDED


async def test_a_run_accepted_long_ago_is_whole_until_its_short_retention_is_over(
    db: Database, floor: Floor
) -> None:
    await keep(db, workflow=7 * DAY)
    run = await ended(db, floor, DAY, shape=WORKFLOW)
    await age(db, run.run_id, 100)
    assert await drop(db) == []
    await ended_ago(db, 7 * DAY, run.run_id)
    assert await remove_all(db) == 1
    assert await drop(db) == [100]


async def test_a_run_goes_whose_history_is_dropped_already(db: Database, floor: Floor) -> None:
    run = await ended(db, floor, 50 * DAY)
    await age(db, run.run_id, 51)
    assert await drop(db) == [51]
    await keep(db, service=DAY)
    assert await remove_all(db) == 1
    assert await there(db, run) == [False]


async def test_a_key_is_free_when_its_run_is_gone(db: Database, floor: Floor) -> None:
    await keep(db, service=HOUR)
    run = await ended(db, floor, 2 * HOUR)
    again = invocation(tenant="default", idempotency_key=str(run.run_id), fingerprint=b"")
    (found,) = await admit(db, [again])
    assert isinstance(found, Admitted)
    assert (found.created, found.run_id) == (False, run.run_id)
    assert await remove_all(db) == 1
    (made,) = await admit(db, [again])
    assert isinstance(made, Admitted)
    assert (made.created, made.run_id) == (True, again.run_id)


async def test_what_comes_too_late_is_told_that_there_is_no_such_run(db: Database, floor: Floor) -> None:
    await keep(db, service=HOUR)
    run = await ended(db, floor, 2 * HOUR, status=RunStatus.FAILED)
    of = await fork.source(db, "default", run.run_id)
    assert await remove_all(db) == 1
    async with db.connection() as connection:
        with pytest.raises(RunNotFound):
            await inspect.get(connection, "default", run.run_id)
        with pytest.raises(RunNotFound):
            await inspect.transcript(connection, "default", run.run_id)
    for verb in (retry, cancel):
        with pytest.raises(RunNotFound):
            await verb(db, "default", run.run_id)
    wanted = fork.Wanted(uuid.uuid4(), "fork", b"", [1], {}, run.usage, None)
    with pytest.raises(RunNotFound):
        await fork.fork(db, of, wanted)
    (late,) = await commit_group(db, [commit(run, 3, keys=["late"])])
    assert isinstance(late, Refused), late
    assert await traces(db, run.run_id) == set()


@pytest.mark.parametrize("holds", ["retry", "fork"])
async def test_a_run_that_somebody_starts_from_is_passed_over(
    database_url: str, db: Database, floor: Floor, holds: str
) -> None:
    await keep(db, service=HOUR)
    run = await ended(db, floor, 2 * HOUR, status=RunStatus.FAILED)
    beside = await ended(db, floor, 2 * HOUR)
    strength = "UPDATE" if holds == "retry" else "KEY SHARE"
    other = await asyncpg.connect(database_url, server_settings={"search_path": "holdfast"})
    try:
        async with other.transaction():
            await other.execute(f"SELECT FROM run_state WHERE run_id = $1 FOR {strength}", run.run_id)
            assert (await remove(db)).removed == 1  # and has not waited
            assert await there(db, run, beside) == [True, False]
    finally:
        await other.close()
    await retry(db, "default", run.run_id)
    assert await remove_all(db) == 0
    assert await status_of(db, run.run_id) is RunStatus.QUEUED
    (again,) = await floor.take()
    await finish(db, again)
    assert await remove_all(db) == 0, "its retention counts from its last end"


async def test_a_child_stays_while_its_parent_is_there_and_a_parent_while_a_child_lives(
    db: Database, floor: Floor
) -> None:
    await keep(db, service=HOUR, worker=HOUR)
    (parent,) = await floor.lease(limits=Limits(max_steps=100, max_tools=9, max_tokens=999, max_context=9))
    born = [invocation(tenant="default", shape=WORKER) for _ in range(2)]
    for one, fate in zip(born, (OnParentEnd.CANCEL, OnParentEnd.CONTINUE), strict=True):
        await spawn(db, one, Parent(parent.run_id, parent.epoch, fate))
    first, second = sorted(await floor.take(2), key=lambda run: run.run_id != born[0].run_id)
    await finish(db, first)
    await ended_ago(db, DAY, first.run_id)
    assert await remove(db) == Removed(removed=0, put_off=1), "its parent may be told of it again"
    assert await remove(db) == Removed(), "it is not looked at for an hour"
    await finish(db, parent)
    await ended_ago(db, DAY, parent.run_id, first.run_id)
    assert await remove_all(db) == 0
    assert await there(db, parent, first, second) == [True] * 3
    assert await contradictions(db) == []
    await finish(db, second)
    await ended_ago(db, DAY, parent.run_id, first.run_id, second.run_id)
    assert await remove_all(db) == 1, "the parent; those it started are put off once more"
    assert await contradictions(db) == []
    await retry_child(db, floor, second)
    await ended_ago(db, DAY, first.run_id, second.run_id)
    assert await remove_all(db) == 2
    assert await fetch(db, "SELECT FROM run") == []


async def retry_child(db: Database, floor: Floor, run: Leased) -> None:
    """Start a child again whose parent is gone, and let it end."""
    await execute(db, "UPDATE run_state SET status = 7 WHERE run_id = $1", run.run_id)
    await execute(db, "UPDATE run_outcome SET status = 7 WHERE run_id = $1", run.run_id)
    await retry(db, "default", run.run_id)
    (again,) = await floor.take()
    await finish(db, again)
    assert await status_of(db, run.run_id) is RunStatus.SUCCEEDED


@pytest.mark.parametrize(("status", "stays"), [(1, True), (2, True), (3, False), (4, True), (5, False)])
async def test_a_run_stays_while_an_effect_of_it_is_on_its_way_or_set_aside(
    db: Database, floor: Floor, *, status: int, stays: bool
) -> None:
    await keep(db, service=HOUR)
    await make_destination(db, "letters")
    (run,) = await floor.lease()
    sent = Effect(uuid.uuid4(), "letters", "invoice-7", b"{}")
    await commit_group(db, [commit(run, 1, keys=["one"], effects=[sent])])
    await finish(db, replace(run, last_commit=1))
    await execute(db, "UPDATE effect SET status = $1", status)
    if not stays:
        await execute(db, "DELETE FROM effect_due")
    await ended_ago(db, DAY, run.run_id)
    assert await remove_all(db) == int(not stays)
    assert bool(await traces(db, sent.effect_id)) is stays
    await execute(db, "UPDATE effect SET status = 3")
    await ended_ago(db, DAY, run.run_id)
    assert await remove_all(db) == int(stays), "once it has come to its destination"
    assert await fetch(db, "SELECT FROM effect_key") == []


async def test_a_run_stays_while_the_batch_that_gave_it_is_not_over(db: Database, floor: Floor) -> None:
    await keep(db, service=HOUR)
    run = await ended(db, floor, DAY)
    (batch,) = await fetch(
        db,
        """INSERT INTO batch (batch_id, tenant, intent, idempotency_key, fingerprint, spec, skip_staging,
               in_order, start_when_uploaded, max_parallelism, priority, max_attempts, initial_backoff_ms,
               max_backoff_ms, tolerated_items, tolerated_share, label_field, confidence_field)
           VALUES (gen_random_uuid(), 'default', 'count', 'k', '', '', false, false, true, 1, 0, 1, 1, 1,
                   0, 0, '', '')
           RETURNING batch_id""",
    )
    await execute(
        db,
        "INSERT INTO batch_deed (id, batch_id, index, purpose, by_run) VALUES ($1, $2, 0, 3, true)",
        run.run_id,
        batch["batch_id"],
    )
    assert await remove_all(db) == 0
    await execute(db, "UPDATE batch SET end_time = now()")
    await ended_ago(db, DAY, run.run_id)
    assert await remove_all(db) == 1
    assert await traces(db, run.run_id) == {"batch_deed.id"}


async def test_work_of_the_same_tenant_goes_on_in_the_middle_of_a_removal(
    database_url: str, db: Database, floor: Floor
) -> None:
    await keep(db, service=HOUR)
    over = await ended(db, floor, 2 * HOUR)
    other = await asyncpg.connect(database_url, server_settings={"search_path": "holdfast"})
    try:
        holding = other.transaction()
        await holding.start()
        await other.execute("SELECT FROM idempotency WHERE run_id = $1 FOR UPDATE", over.run_id)
        removing = asyncio.create_task(remove(db))
        await until(partial(_waits, db), deadline=60)
        await ended(db, floor, 0)  # admitted, claimed, committed and ended
        await keep(db, service=2 * HOUR)
        assert await drop(db) == []
        assert not removing.done()
        await holding.rollback()
        assert await removing == Removed(removed=1)
    finally:
        await other.close()


WAITS = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%remove_runs%' AND wait_event_type = 'Lock'
"""


async def _waits(db: Database) -> bool:
    return bool(await fetch(db, WAITS))


KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%remove_runs%' AND wait_event_type = 'Lock'
      AND pid <> pg_backend_pid()
"""


async def test_a_removal_that_is_killed_in_the_middle_has_removed_nothing(
    database_url: str, db: Database, floor: Floor
) -> None:
    await keep(db, service=HOUR)
    runs = [await ended(db, floor, 2 * HOUR) for _ in range(3)]
    before = [await traces(db, run.run_id) for run in runs]
    other = await asyncpg.connect(database_url, server_settings={"search_path": "holdfast"})
    try:
        holding = other.transaction()
        await holding.start()
        # The last that is removed: all before it is then deleted, and not yet committed.
        await other.execute("SELECT FROM idempotency WHERE run_id = $1 FOR UPDATE", runs[2].run_id)
        cut = asyncio.create_task(remove(db))
        await until(partial(_killed, db), deadline=60)
        (failed,) = await asyncio.gather(cut, return_exceptions=True)
        assert isinstance(failed, Exception), failed
        await holding.rollback()
    finally:
        await other.close()
    assert [await traces(db, run.run_id) for run in runs] == before
    assert await contradictions(db) == []
    assert await remove_all(db) == 3
    assert await there(db, *runs) == [False] * 3


async def _killed(db: Database) -> bool:
    return bool(await fetch(db, KILL))


async def test_several_who_remove_while_keys_are_asked_for_remove_each_run_once(
    db: Database, floor: Floor
) -> None:
    await keep(db, service=HOUR)
    runs = await floor.lease(60)
    await asyncio.gather(*(finish(db, run) for run in runs))
    await ended_ago(db, DAY, *(run.run_id for run in runs))
    again = [invocation(tenant="default", idempotency_key=str(run.run_id), fingerprint=b"") for run in runs]
    removing = asyncio.gather(*(remove_all(db, limit=7) for _ in range(3)))
    answers = await asyncio.gather(*(admit(db, [one]) for one in again))
    assert sum(await removing) == 60
    for asked, (answer,) in zip(again, answers, strict=True):
        assert isinstance(answer, Admitted), answer
        assert answer.run_id in (asked.run_id, uuid.UUID(asked.idempotency_key))
        assert answer.created is (answer.run_id == asked.run_id)
    assert await contradictions(db) == []


async def test_of_runs_with_many_steps_the_first_are_removed_and_then_the_others(
    db: Database, floor: Floor
) -> None:
    await keep(db, service=HOUR)
    for _ in range(3):
        await ended(db, floor, 2 * HOUR)
    await execute(db, "UPDATE run_state SET last_sequence = 9999")
    assert (await remove(db)).removed == 1
    assert await remove_all(db) == 2
