"""The client's inbox and the command that shows it, against the real service, also when that restarts."""

import asyncio
import json
import os
import sys
from pathlib import Path

from holdfast.client import ApprovalStatus, Client, Person
from holdfast.ledger.approval_vote import decide
from holdfast.ledger.domain.approval import Person as Voter
from holdfast.ledger.domain.approval import Verdict
from tests.support.approval import approval_service, ask, running
from tests.support.ledger import open_ledger

ANN, BOB = Person("ann", groups=("writers",)), Voter("bob", frozenset({"writers"}))
NOWHERE = "127.0.0.1:9"


async def test_an_inbox_goes_on_over_a_service_that_goes_and_comes(database_url: str) -> None:
    lost: list[object] = []
    async with open_ledger(database_url) as db, asyncio.timeout(60):
        run = await running(db)
        first = await ask(db, run, "first")
        async with approval_service(db) as address:
            client = Client(NOWHERE, tenant="acme", approval=address)
            inbox = client.approvals(ANN).watch(mine=True, on_lost=lost.append)
            assert (await anext(inbox)).approval_id == str(first)
            await ask(db, run, "second")
            while (seen := await anext(inbox)).title != "second":
                pass
            assert (seen.status, inbox.caught_up) == (ApprovalStatus.PENDING, True)
        await decide(db, "acme", first, BOB, Verdict.DENY)
        async with approval_service(db, address):
            back = await anext(inbox)
            assert (back.approval_id, back.status, back.by) == (str(first), ApprovalStatus.DENIED, ("bob",))
            assert lost
            inbox.close()
            later = client.approvals(ANN).watch(mine=True, cursor=inbox.cursor)
            third = await ask(db, run, "third")
            assert (await anext(later)).approval_id == str(third)
            later.close()
        await client.close()


async def test_the_command_shows_what_waits_and_what_becomes_of_it(database_url: str, tmp_path: Path) -> None:
    async with open_ledger(database_url) as db, approval_service(db) as address, asyncio.timeout(60):
        run = await running(db)
        gate = await ask(db, run, "review")
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast.cli", "approvals", "watch", "-o", "json"),
            *("--tenant", "acme", "--approval-address", address),
            stdout=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert command.stdout is not None
        waits = json.loads(await command.stdout.readline())
        assert (waits["approval_id"], waits["status"]) == (str(gate), "PENDING")
        await decide(db, "acme", gate, BOB, Verdict.APPROVE)
        over = json.loads(await command.stdout.readline())
        assert (over["status"], over["by"], over["cursor"]) == ("APPROVED", ["bob"], "2")
        command.terminate()
        await command.wait()
