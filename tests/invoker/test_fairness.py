"""What one tenant puts in by the hundred, or keeps locked, does not hold up a run of another."""

import asyncio
import uuid
from collections import Counter
from typing import Any

import pytest

from holdfast.invoker.lines import MAX_BYTES, MAX_GROUP, MAX_SHARE, MAX_WAIT, Lines
from holdfast.kit.db import Database
from holdfast.ledger import SESSION_SETTINGS
from holdfast.ledger.admission import admit
from holdfast.ledger.values import Invocation
from holdfast.v1.invoker_service_pb2 import InvokeRequest
from tests.invoker.runner import runner
from tests.invoker.stand import Invoker
from tests.kit.until import until
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
            await until(lambda: len(worker.held) == 1)
        await until(lambda: len(worker.held) == 2)


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
