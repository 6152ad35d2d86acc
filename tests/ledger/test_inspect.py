"""Reading shows what is, page by page, and never another tenant's."""

from datetime import UTC, datetime, timedelta

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import RunNotFound
from holdfast.ledger import inspect
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Happened
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.run_list import Cursor, RunFilter, list_runs
from tests.support.ledger import admitted, execute, finish, invocation, opened


async def listed(db: Database, which: RunFilter, *, size: int = 2, tenant: str = "acme") -> list[int]:
    """Read all pages; give the numbers of the runs."""
    seqs: list[int] = []
    after: Cursor | None = None
    while True:
        runs, after = await list_runs(db, tenant, which, limit=size, after=after)
        assert len(runs) <= size
        seqs += [run.seq for run in runs]
        if after is None:
            return seqs
        after = Cursor.parse(str(after))


async def test_a_run_reads_as_it_was_accepted(db: Database) -> None:
    (run,) = await admitted(
        db, invocation(user="ann", labels={"team": "blue"}, ordering_key="k", priority=3, correlation_id="c")
    )
    async with db.connection() as connection:
        view = await inspect.get(connection, "acme", run.run_id)
        by_key = await inspect.get_by_key(connection, "acme", str(run.run_id))
    assert (view.user, view.labels, view.ordering_key, view.priority) == ("ann", {"team": "blue"}, "k", 3)
    assert (view.status, view.envelope, view.outcome) == (RunStatus.QUEUED, b"envelope", None)
    assert by_key.run_id == run.run_id


async def test_an_outcome_is_read_with_its_result(db: Database) -> None:
    runner = await opened(db)
    (run, _) = await admitted(db, invocation(), invocation(), on=runner.idle())
    assert run.lease
    await finish(db, run.lease)
    async with db.connection() as connection:
        view = await inspect.get(connection, "acme", run.run_id)
        outcomes = await inspect.outcomes(connection, [run.run_id])
    assert view.outcome
    assert view.outcome.result == b'"done"'
    assert outcomes == {run.run_id: view.outcome}
    assert view.start_time
    assert view.end_time


async def test_a_key_of_another_tenant_is_not_found(db: Database) -> None:
    await admitted(db, invocation(idempotency_key="k"))
    async with db.connection() as connection:
        with pytest.raises(RunNotFound):
            await inspect.get_by_key(connection, "umbrella", "k")


async def test_pages_hold_every_run_once_newest_first_while_more_come(db: Database) -> None:
    runs = await admitted(db, *(invocation() for _ in range(7)))
    await admitted(db, invocation(tenant="umbrella"))
    page, after = await list_runs(db, "acme", RunFilter(), limit=3)
    await admitted(db, *(invocation() for _ in range(3)))
    rest, end = await list_runs(db, "acme", RunFilter(), limit=10, after=after)
    assert end is None
    assert [run.seq for run in (*page, *rest)] == [run.seq for run in reversed(runs)]
    assert all(run.envelope is None for run in page)


async def test_filters_are_joined_and_each_finds_its_own(db: Database) -> None:
    runs = await admitted(
        db,
        invocation(correlation_id="c", labels={"team": "blue", "kind": "a"}),
        invocation(correlation_id="c", session_id="s", labels={"team": "blue"}),
        invocation(session_id="s", intent="sum", labels={"team": "red"}),
        invocation(),
    )
    seqs = [run.seq for run in runs]
    assert await listed(db, RunFilter(correlation_id="c")) == [seqs[1], seqs[0]]
    assert await listed(db, RunFilter(session_id="s")) == [seqs[2], seqs[1]]
    assert await listed(db, RunFilter(session_id="s", correlation_id="c")) == [seqs[1]]
    assert await listed(db, RunFilter(intent="sum")) == [seqs[2]]
    assert await listed(db, RunFilter(labels={"team": "blue"})) == [seqs[1], seqs[0]]
    assert await listed(db, RunFilter(labels={"team": "blue", "kind": "a"})) == [seqs[0]]
    assert await listed(db, RunFilter(), tenant="nobody") == []


async def test_statuses_are_read_each_along_its_own_index_and_merged(db: Database) -> None:
    runner = await opened(db)
    runs = await admitted(db, *(invocation() for _ in range(9)))
    for run in runs[::3]:
        await cancel(db, "acme", run.run_id)
    for lease in await runner.take(3):
        await finish(db, lease)
    seqs = [run.seq for run in runs]
    ended = (RunStatus.CANCELLED, RunStatus.SUCCEEDED)
    assert await listed(db, RunFilter(statuses=(RunStatus.CANCELLED,))) == [seqs[6], seqs[3], seqs[0]]
    assert await listed(db, RunFilter(statuses=ended)) == [seqs[n] for n in (6, 4, 3, 2, 1, 0)]


async def test_times_bound_a_list(db: Database) -> None:
    runs = [(await admitted(db, invocation()))[0] for _ in range(4)]
    seqs, times = [run.seq for run in runs], [run.create_time for run in runs]
    between = RunFilter(create_time_from=times[1], create_time_before=times[3])
    assert await listed(db, between, size=1) == [seqs[2], seqs[1]]
    queued = RunFilter(create_time_from=times[2], statuses=(RunStatus.QUEUED,))
    assert await listed(db, queued) == [seqs[3], seqs[2]]
    future = datetime.now(UTC) + timedelta(days=1)
    assert await listed(db, RunFilter(create_time_from=future)) == []


@pytest.mark.parametrize("token", ["", "x", "1", "2026-01-01/1", "2026-01-01T00:00:00+00:00/x"])
def test_a_token_of_another_kind_is_refused(token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        Cursor.parse(token)


async def test_a_transcript_is_read_from_any_sequence_on(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=runner.idle())
    for number, (first, last) in enumerate([(2, 4), (5, 5), (6, 9)], start=1):
        happened = Happened(first, last, f"{first}-{last}".encode())
        await commit_group(db, [CommitItem(run.run_id, 1, number, happened=happened)])

    async def after(sequence: int, limit: int = 100) -> list[tuple[int, int]]:
        async with db.connection() as connection:
            rows = await inspect.transcript(
                connection, "acme", run.run_id, after_sequence=sequence, limit=limit
            )
        return [(row.first_sequence, row.last_sequence) for row in rows]

    assert await after(0) == [(1, 1), (2, 4), (5, 5), (6, 9)]
    assert await after(1, limit=2) == [(2, 4), (5, 5)]
    assert await after(3) == [(2, 4), (5, 5), (6, 9)]
    assert await after(4) == [(5, 5), (6, 9)]
    assert await after(9) == []
    with pytest.raises(RunNotFound):
        async with db.connection() as connection:
            await inspect.transcript(connection, "umbrella", run.run_id)


async def test_the_runner_that_holds_a_run_is_found(db: Database) -> None:
    runner = await opened(db)
    held, waiting = await admitted(db, invocation(), invocation(), on=runner.idle())
    async with db.connection() as connection:
        holder = await inspect.session_address(connection, held.run_id)
        assert await inspect.session_address(connection, waiting.run_id) is None
    assert holder
    assert (holder.session_id, holder.address, holder.epoch) == (runner.session_id, "127.0.0.1:9", 1)


async def test_a_run_keeps_its_history_when_its_day_is_long_over(db: Database) -> None:
    (run,) = await admitted(db, invocation())
    for table in ("run_state", "transcript"):
        await execute(db, f"UPDATE {table} SET day = day - 400")
    async with db.connection() as connection:
        assert len(await inspect.transcript(connection, "acme", run.run_id)) == 1
