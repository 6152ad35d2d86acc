"""What one tenant puts in by the hundred, or keeps locked, does not hold up a run of another."""

import asyncio
import uuid
from collections import Counter
from typing import Any

import pytest

from holdfast.invoker.door import MAX_GROUP, MAX_SHARE
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


async def test_each_tenant_puts_a_few_runs_into_a_group_and_keeps_their_order(door: Invoker) -> None:
    entered: list[Invocation] = []
    groups: list[list[Invocation]] = []

    def enter(tenant: str, runs: int) -> None:
        for _ in range(runs):
            one = invocation(intent="count", tenant=tenant)
            entered.append(one)
            door.parts.door._enter(one)

    # Nothing awaits here, so that the door's own loop takes none of it.
    enter("noisy", 600)
    enter("light", 1)
    enter("other", 50)
    while door.parts.door._waiting:
        groups.append([one for one, _ in door.parts.door._take()])
    sizes = [Counter(one.tenant for one in group) for group in groups]
    assert sizes[0] == {"noisy": MAX_SHARE, "light": 1, "other": MAX_SHARE}
    assert sizes[1] == {"noisy": MAX_SHARE, "other": 50 - MAX_SHARE}
    assert sizes[2] == {"noisy": MAX_GROUP}
    for tenant in ("noisy", "light", "other"):
        told = [one.run_id for group in groups for one in group if one.tenant == tenant]
        assert told == [one.run_id for one in entered if one.tenant == tenant]
    assert door.parts.door._waiting_bytes == 0
