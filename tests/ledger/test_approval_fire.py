"""What falls due at a gate happens, whatever an agent has done to hinder it; every change has its number."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from holdfast.kit.db import Database
from holdfast.ledger import approval_view
from holdfast.ledger.approval_fire import fire
from holdfast.ledger.approval_request import Request, request
from holdfast.ledger.approval_view import StoredGate
from holdfast.ledger.approval_vote import decide
from holdfast.ledger.domain.approval import ApprovalStatus, Person, Policy, Quorum, Reminders, Verdict
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.retry import retry
from holdfast.ledger.values import Leased
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    invocation,
    open_ledger,
    opened,
)
from tests.support.outbox import make_destination, stage, staged

ANN = Person("ann", frozenset({"writers"}))


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_ledger(database_url) as db:
        for tenant in ("acme", "quiet"):
            await make_destination(db, "desk", tenant=tenant)
        yield db


async def running(db: Database, runner: Runner, tenant: str = "acme") -> Leased:
    (run,) = await admitted(db, invocation(tenant=tenant), on=runner.idle())
    assert run.lease
    return run.lease


async def ask(db: Database, run: Leased, step: str = "review", **policy: Any) -> UUID:
    given: dict[str, Any] = {"required": (Quorum(1, ("group:writers",)),), "timeout": 3600.0, **policy}
    return (
        await request(db, Request(run.run_id, run.epoch, step, "Pay?", b"{}", Policy(**given)))
    ).approval_id


async def stored(db: Database, approval_id: UUID, tenant: str = "acme") -> StoredGate:
    async with db.connection() as connection:
        return await approval_view.get(connection, tenant, approval_id)


async def ages(db: Database, seconds: float) -> None:
    await execute(
        db,
        """UPDATE approval SET create_time = create_time - make_interval(secs => $1),
                               next_time = next_time - make_interval(secs => $1)""",
        seconds,
    )


async def test_an_agent_that_takes_the_key_of_a_notice_holds_up_no_gate_of_its_own_or_of_others(
    db: Database,
) -> None:
    runner = await opened(db)
    hostile = await ask(db, await running(db, runner), admin_destination="desk")
    quiet = await ask(db, await running(db, runner, "quiet"), admin_destination="desk")
    await stage(db, staged("desk", tenant="acme", key=f"{hostile}/timeout", body=b'{"mine":1}'))
    await ages(db, 3601)
    await fire(db)
    assert (await stored(db, hostile)).gate.status is ApprovalStatus.TIMED_OUT
    assert (await stored(db, quiet, "quiet")).gate.status is ApprovalStatus.TIMED_OUT
    keys = [
        row["idempotency_key"] for row in await fetch(db, "SELECT idempotency_key FROM effect ORDER BY seq")
    ]
    assert keys == [f"{hostile}/timeout", f"{quiet}/timeout"]
    assert await contradictions(db) == []


async def test_a_reminder_is_a_change_with_a_number_of_its_own(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    first = await ask(db, run, "a", reminders=Reminders(60, 60, 3, "desk"))
    second = await ask(db, run, "b")
    seen = (await stored(db, second)).change
    await ages(db, 61)
    await fire(db)
    async with db.connection() as connection:
        (changed,) = await approval_view.changes(connection, "acme", seen, 9)
    assert (changed.approval_id, changed.gate.reminded) == (first, 1)
    await decide(db, "acme", second, ANN, Verdict.APPROVE)
    assert len({(await stored(db, each)).change for each in (first, second)}) == 2


async def test_the_same_edited_approval_is_answered_as_before_also_after_the_end(db: Database) -> None:
    run = await running(db, await opened(db))
    for count in (2, 1):
        required = (Quorum(count, ("group:writers",)),)
        gate = await ask(db, run, f"g{count}", required=required, payload_editable=True)
        for again in (False, True):
            changed = await decide(db, "acme", gate, ANN, Verdict.APPROVE, edited=b'{"n": 1}', revision=1)
            assert changed.repeated is again
        assert (await stored(db, gate)).gate.revision == 2


async def test_the_log_tells_one_payload_from_another(db: Database) -> None:
    run = await running(db, await opened(db))
    gate = await ask(db, run, payload_editable=True)
    await decide(db, "acme", gate, ANN, Verdict.APPROVE, edited=b'{"n": 1}')
    rows = await fetch(
        db,
        "SELECT content::text FROM (SELECT convert_from(content, 'UTF8')::jsonb ->> "
        "'payload_sha256' AS content, sequence FROM approval_audit) t ORDER BY sequence",
    )
    asked, voted, decided = [row["content"] for row in rows]
    assert asked is not None
    assert asked != voted == decided


async def letters(db: Database, run: Leased) -> list[str]:
    rows = await fetch(db, "SELECT payload FROM mailbox WHERE run_id = $1", run.run_id)
    return [json.loads(row["payload"])["status"] for row in rows]


@pytest.mark.parametrize("decided", [False, True])
async def test_a_run_that_is_started_again_hears_what_was_decided_or_asks_again(
    db: Database,
    decided: bool,  # noqa: FBT001
) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    gate = await ask(db, run)
    if decided:
        await decide(db, "acme", gate, ANN, Verdict.APPROVE)
    await finish(db, run, RunStatus.CANCELLED)
    assert await letters(db, run) == []
    await retry(db, "acme", run.run_id)
    (again,) = await runner.take()
    asked = Request(run.run_id, again.epoch, "review", "", b"{}", Policy((), timeout=1.0))
    found = await request(db, asked)
    assert (found.approval_id == gate, found.repeated) == (decided, decided)
    repeated = await request(db, asked)
    assert (repeated.approval_id, repeated.repeated) == (found.approval_id, True)
    assert await letters(db, run) == (["APPROVED"] if decided else [])
    assert await contradictions(db) == []
