"""What one tenant puts in by the hundred, or keeps locked, does not hold up a run of another."""

import asyncio
import uuid
from collections import Counter
from typing import Any

import pytest

from holdfast.invoker.board import Board
from holdfast.invoker.lines import MAX_BYTES, MAX_GROUP, MAX_SHARE, MAX_WAIT, Lines
from holdfast.invoker.runner_session import RunnerSession
from holdfast.kit.db import Database
from holdfast.ledger import SESSION_SETTINGS
from holdfast.ledger.admission import Placements, admit
from holdfast.ledger.domain.admission import LIGHT
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import Admitted, Invocation, ServedIntent
from holdfast.v1.invoker_service_pb2 import InvokeRequest
from tests.invoker.runner import runner
from tests.invoker.stand import Invoker
from tests.kit.until import until
from tests.support.ledger import Runner as RunnerOfLedger
from tests.support.ledger import invocation


@pytest.fixture
async def database(database_url: str) -> Any:
    async with await Database.connect(
        database_url, application_name="test", server_settings=SESSION_SETTINGS
    ) as db:
        yield db


async def put_in(database: Database, tenant: str, runs: int) -> None:
    envelope = InvokeRequest(intent="count").SerializeToString()
    await admit(database, [invocation(intent="count", tenant=tenant, envelope=envelope) for _ in range(runs)])


async def test_a_run_is_leased_while_anothers_tenant_is_locked_and_that_one_as_soon_as_it_is_free(
    door: Invoker, commits: str, database: Database
) -> None:
    async with runner(door.address, commits, slots=2) as worker:
        await until(lambda: bool(door.parts.board.sessions()))
        await put_in(database, "busy", 1)
        async with database.transaction() as connection:
            await connection.execute("SELECT FROM tenant WHERE tenant = 'busy' FOR NO KEY UPDATE")
            door.parts.claimer.queued()
            await asyncio.sleep(0.1)  # a claim waits for the lock by now
            await put_in(database, "light", 1)
            door.parts.claimer.queued()
            await until(lambda: len(worker.held) == 1, deadline=2)  # less than any lock is waited for
        await until(lambda: len(worker.held) == 2)


async def test_runners_that_have_left_do_not_keep_others_from_what_they_are_owed(
    door: Invoker, commits: str, database: Database
) -> None:
    async with runner(door.address, commits, slots=1) as worker:
        claimer, board = door.parts.claimer, door.parts.board
        await until(lambda: board.credit() == 1)
        (session,) = board.sessions()
        claimer._passed_by = {(ServedIntent("gone", "1"),): None, session.intents: None}
        await put_in(database, "busy", 1)
        claimer.waiting.wake()
        await until(lambda: len(worker.held) == 1)
        assert not claimer._passed_by
        assert not claimer._owed


async def test_a_tenant_that_was_passed_by_is_not_passed_by_for_ever(
    door: Invoker, commits: str, database: Database
) -> None:
    async with runner(door.address, commits, slots=1) as worker:
        await until(lambda: bool(door.parts.board.sessions()))
        async with database.transaction() as connection:
            await put_in(database, "busy", 1)
            await put_in(database, "light", 5)
            await connection.execute("SELECT FROM tenant WHERE tenant = 'busy' FOR NO KEY UPDATE")
            door.parts.claimer.queued()
            await until(lambda: len(worker.held) == 1)  # the only credit
            await until(lambda: door.parts.claimer._owed)
            (first,) = worker.held.values()
            await worker.end(first)  # and its credit is kept for the tenant that is locked
            await asyncio.sleep(0.1)
        await until(lambda: len(worker.held) == 1)
        (run,) = worker.held.values()
        assert (await _tenant(database, run.assignment.invocation.run_id)) == "busy"


async def _tenant(database: Database, run_id: str) -> str:
    async with database.connection() as connection:
        return str(await connection.fetchval("SELECT tenant FROM run WHERE run_id = $1", uuid.UUID(run_id)))


@pytest.mark.parametrize("gather", [False, True])
async def test_each_tenant_puts_a_few_runs_into_a_group_and_keeps_their_order(*, gather: bool) -> None:
    lines = Lines()
    entered: list[Invocation] = []
    groups: list[list[Invocation]] = []

    def enter(tenant: str, runs: int) -> None:
        for number in range(runs):
            one = invocation(intent="count", tenant=tenant)
            entered.append(one)
            waiting = (one, asyncio.get_running_loop().create_future())
            # Who comes behind one that is gathered is gathered too, or it came before it.
            assert lines.join(0.0, waiting, gather=gather and number == 0) is gather

    enter("noisy", 600)
    enter("light", 1)
    enter("other", 50)
    assert bool(lines) is not gather
    lines.gathered()
    while lines:
        groups.append([one for one, _ in lines.take()])
    sizes = [Counter(one.tenant for one in group) for group in groups]
    assert sizes[0] == {"noisy": MAX_SHARE, "light": 1, "other": MAX_SHARE}
    assert sizes[1] == {"noisy": MAX_SHARE, "other": 50 - MAX_SHARE}
    assert sizes[2] == {"noisy": MAX_GROUP}
    for tenant in ("noisy", "light", "other"):
        told = [one.run_id for group in groups for one in group if one.tenant == tenant]
        assert told == [one.run_id for one in entered if one.tenant == tenant]
    assert lines.take() == []


async def test_a_line_that_stands_still_takes_nobody_more_and_the_others_do() -> None:
    lines = Lines()
    for tenant, at in (("noisy", 0.0), ("light", MAX_WAIT)):
        one = invocation(intent="count", tenant=tenant)
        lines.join(at, (one, asyncio.get_running_loop().create_future()))
    now = MAX_WAIT + 0.1
    assert [lines.is_closed(tenant, now) for tenant in ("noisy", "light", "new")] == [True, False, False]
    large = invocation(intent="count", tenant="new", envelope=bytes(MAX_BYTES))
    lines.join(now, (large, asyncio.get_running_loop().create_future()), gather=True)
    assert lines.is_closed("light", now)


def test_claims_leave_a_sixteenth_of_the_slots_and_the_door_may_use_it() -> None:
    board = Board(patience=60.0)
    session = RunnerSession(uuid.uuid4(), "", (ServedIntent("count", "1"),))
    board.add(session)
    session.credit = 32
    for tenant in ("only", "only"):
        board.note(tenant)
        everything = board.reserve([session], 100)
        assert everything.total == 32  # there is nobody to keep it for
        everything.give_back()
    board.note("another")
    claimed = board.reserve([session], 100)
    assert (claimed.total, session.credit, dict(claimed.kept)) == (30, 2, {})
    claimed.give_back()
    one = board.reserve([session], 1, kept_too=True)
    assert (one.total, dict(one.kept)) == (2, {session: 1})
    one.give_back()
    all_of_it = board.reserve([session], 100, kept_too=True)
    assert (all_of_it.total, dict(all_of_it.kept), session.credit) == (32, {session: 2}, 0)


async def test_a_light_tenant_goes_to_a_runner_past_those_who_wait_and_a_heavy_one_does_not(
    database: Database,
) -> None:
    session = RunnerOfLedger(database)
    await session.open()
    offer = session.idle(0)
    keeping = Placements(offer.servers, {session.session_id: 0}, {session.session_id: 2})

    async def let_in(tenant: str, runs: int) -> list[RunStatus]:
        envelopes = [invocation(intent="count", tenant=tenant) for _ in range(runs)]
        answers = await admit(database, envelopes, keeping)
        return [answer.status for answer in answers if isinstance(answer, Admitted)]

    queued, running = RunStatus.QUEUED, RunStatus.RUNNING
    await put_in(database, "noisy", 3)
    assert await let_in("noisy", 1) == [queued]  # something of it waits
    assert await let_in("light", 3) == [running, running, queued]  # as many as are kept
    assert await let_in("light", 1) == [queued]
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO tenant (tenant, max_in_flight, max_queued, in_flight) "
            "SELECT 'busy', max_in_flight, max_queued, $1 FROM tenant WHERE tenant = 'light'",
            LIGHT,
        )
    assert await let_in("busy", 1) == [queued]
