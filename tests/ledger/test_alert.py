"""A tenant hears of each run set aside, exactly once, and not being heard keeps no run from its end."""

import asyncio
import json
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.ledger import tenant
from holdfast.ledger.commit_value import Requeue
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.retry import retry
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import Failure, Leased, Limits
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    fetch,
    finish,
    give_up,
    invocation,
    opened,
    status_of,
)
from tests.support.outbox import make_destination, staged
from tests.support.outbox import stage as stage_effect

WHY = Failure("STEP_FAILED", "no such page", "fetch", 1)


async def alerts(db: Database) -> list[Any]:
    return await fetch(
        db,
        """SELECT e.idempotency_key AS key, e.run_id, e.body FROM effect e
           JOIN effect_due d USING (effect_id) ORDER BY e.seq""",
    )


async def listening(db: Database) -> None:
    await make_destination(db, "pager", tenant="acme")
    await tenant.change(db, "acme", {"alert_destination": "pager"}, make=True)


async def leased(db: Database) -> tuple[Runner, Leased]:
    runner = await opened(db)
    await admitted(db, invocation(max_attempts=1))
    (run,) = await runner.take()
    return runner, run


async def test_a_run_whose_attempts_are_used_up_is_told_of_with_its_cause(db: Database) -> None:
    await listening(db)
    _, run = await leased(db)
    await give_up(db, run, Requeue(WHY))
    assert await status_of(db, run.run_id) is RunStatus.DEAD_LETTERED
    (alert,) = await alerts(db)
    assert alert["key"].startswith(f"!dead-letter/{run.run_id}/")
    assert alert["run_id"] == run.run_id
    body = json.loads(alert["body"])
    assert (body["type"], body["intent"], body["attempts"]) == ("run.dead_lettered", "count", 1)
    assert (body["failure"]["reason"], body["failure"]["message"]) == ("STEP_FAILED", "no such page")


async def test_a_run_that_loses_its_last_runner_is_told_of_once_however_many_sweep(db: Database) -> None:
    await listening(db)
    runner, run = await leased(db)
    await runner.expire()
    await asyncio.gather(*(sweep(db) for _ in range(4)))
    (alert,) = await alerts(db)
    assert json.loads(alert["body"])["failure"]["reason"] == "RUNNER_LOST"
    await retry(db, "acme", run.run_id, Limits())
    while await status_of(db, run.run_id) is not RunStatus.DEAD_LETTERED:
        again = await opened(db)
        assert await again.take()
        await again.expire()
        await sweep(db)
    first, second = await alerts(db)
    assert first["key"] != second["key"]
    assert await contradictions(db) == []


async def test_other_ends_and_other_tenants_tell_nobody(db: Database) -> None:
    await listening(db)
    _, run = await leased(db)
    await finish(db, run, RunStatus.FAILED)
    await make_destination(db, "pager", tenant="quiet")
    await admitted(db, invocation(tenant="quiet", max_attempts=1))
    (quiet,) = await (await opened(db)).take()
    await give_up(db, quiet, Requeue(WHY))
    assert await status_of(db, quiet.run_id) is RunStatus.DEAD_LETTERED
    assert await alerts(db) == []


@pytest.mark.parametrize("trouble", ["no destination", "a taken key"])
@pytest.mark.parametrize("way", ["commit", "sweep"])
async def test_a_run_comes_to_its_end_though_nobody_can_be_told(db: Database, trouble: str, way: str) -> None:
    await tenant.change(db, "acme", {"alert_destination": "pager"}, make=True)
    runner, run = await leased(db)
    if trouble == "a taken key":
        await make_destination(db, "pager", tenant="acme")
        keys = [f"!dead-letter/{run.run_id}/{epoch}" for epoch in range(9)]
        await stage_effect(db, *(staged("pager", key=key, tenant="acme") for key in keys))
    before = len(await alerts(db))
    if way == "commit":
        await give_up(db, run, Requeue(WHY))
    else:
        await runner.expire()
        await sweep(db)
    assert await status_of(db, run.run_id) is RunStatus.DEAD_LETTERED
    assert len(await alerts(db)) == before
    assert await contradictions(db) == []
