"""History is dropped by the day, never under a run that may need it."""

import asyncio
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import RunNotRetryable
from holdfast.ledger import history, inspect
from holdfast.ledger.commit import commit_group
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.retry import retry
from holdfast.ledger.values import Leased
from tests.support.commit import Floor, commit
from tests.support.ledger import finish, status_of
from tests.support.retention import age, drop


@pytest.fixture
async def floor(db: Database) -> Floor:
    return await Floor(db).open()


async def recorded(db: Database, floor: Floor) -> Leased:
    """Return a leased run with two steps on record."""
    (run,) = await floor.lease()
    await commit_group(db, [commit(run, 1, keys=["one", "two"], events=2, first=2)])
    return run


def after(run: Leased, commits: int) -> Leased:
    """Return a lease as it is after that many commits."""
    return replace(run, last_commit=run.last_commit + commits)


async def told(db: Database, run_id: UUID) -> int:
    async with db.connection() as connection:
        return len(await inspect.transcript(connection, "default", run_id))


@pytest.mark.parametrize("partition", [True, False])
async def test_a_day_is_dropped_when_it_is_old_enough_and_its_runs_have_ended(
    db: Database, floor: Floor, *, partition: bool
) -> None:
    old, young = await recorded(db, floor), await recorded(db, floor)
    for run in (old, young):
        await finish(db, after(run, 1))
    await age(db, old.run_id, 31, partition=partition)
    await age(db, young.run_id, 30, partition=partition)
    assert await drop(db) == [31]
    assert await drop(db) == []
    assert (await told(db, old.run_id), await told(db, young.run_id)) == (0, 2)
    assert (await history.list_steps(db, "default", old.run_id, after_position=0, limit=9)).steps == []
    assert len((await history.list_steps(db, "default", young.run_id, after_position=0, limit=9)).steps) == 2
    async with db.connection() as connection:
        kept = await inspect.get(connection, "default", old.run_id)
    assert (kept.status, kept.outcome and kept.outcome.result) == (RunStatus.SUCCEEDED, b'"done"')


async def test_a_day_with_a_run_that_has_not_ended_is_kept_and_the_days_around_it_are_not(
    db: Database, floor: Floor
) -> None:
    runs = [await recorded(db, floor) for _ in range(3)]
    for run, days in zip(runs, (50, 40, 35), strict=True):
        await age(db, run.run_id, days)
    for run in (runs[0], runs[2]):
        await finish(db, after(run, 1))
    assert await drop(db) == [50, 35]
    pages = [page async for page in history.load_steps(db, runs[1].run_id, runs[1].epoch)]
    assert [step.key for page in pages for step in page.steps] == ["one", "two"]
    await finish(db, after(runs[1], 1))
    assert await drop(db) == [40]


async def test_all_is_kept_for_ever_if_nothing_is_said(db: Database, floor: Floor) -> None:
    run = await recorded(db, floor)
    await finish(db, after(run, 1))
    await age(db, run.run_id, 5000)
    assert await drop(db, keep=0) == []
    assert await told(db, run.run_id) == 2


async def test_a_run_whose_steps_are_gone_is_not_started_again(db: Database, floor: Floor) -> None:
    gone, kept = await recorded(db, floor), await recorded(db, floor)
    for run in (gone, kept):
        await finish(db, after(run, 1), RunStatus.FAILED)
        await age(db, run.run_id, 31 if run is gone else 29)
    assert await drop(db) == [31]
    with pytest.raises(RunNotRetryable, match="no longer kept"):
        await retry(db, "default", gone.run_id)
    await retry(db, "default", kept.run_id)
    assert await status_of(db, kept.run_id) is RunStatus.QUEUED


async def test_a_run_being_started_again_keeps_its_day(database_url: str, db: Database, floor: Floor) -> None:
    run = await recorded(db, floor)
    await finish(db, after(run, 1), RunStatus.FAILED)
    await age(db, run.run_id, 31)
    other = await asyncpg.connect(database_url, server_settings={"search_path": "holdfast"})
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE ONLY transcript IN ROW EXCLUSIVE MODE")  # as a retry does
            dropping = asyncio.create_task(drop(db))
            await other.execute("UPDATE run_state SET status = 1 WHERE run_id = $1", run.run_id)
            assert await dropping == []  # it gave way in time, and would have seen the run
    finally:
        await other.close()
    assert await drop(db) == []
    assert await told(db, run.run_id) == 2


async def test_several_who_drop_at_once_drop_each_day_once(db: Database, floor: Floor) -> None:
    for days in (31, 32, 33):
        run = await recorded(db, floor)
        await finish(db, after(run, 1))
        await age(db, run.run_id, days)
    dropped = await asyncio.gather(*(drop(db) for _ in range(4)))
    left = await drop(db)
    assert sorted([day for each in dropped for day in each] + left) == [31, 32, 33]
