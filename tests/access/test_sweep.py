"""What another tenant has is, for every RPC that takes an id, as if it were not there."""

import asyncio
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from holdfast.client import ApprovalStatus, RunStatus
from holdfast.client.errors import HoldfastError
from tests.access.guarded import Guarded, fetch, guarding, request_of, token_of
from tests.contract.description import Rpc, rpcs
from tests.kit.until import until

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

MORE: dict[str, dict[str, Any]] = {
    "DecideApproval": {"verdict": 1},
    "SignalRun": {"key": "input", "payload": {"string_value": "x"}},
    "InterruptRun": {"payload": {"string_value": "x"}},
}
"""What a request needs beside its id to be taken."""


def subjects(rpc: Rpc, ids: dict[str, str]) -> list[str]:
    """Return the fields of a request that name something of a tenant's."""
    fields = type(request_of(rpc)).DESCRIPTOR.fields_by_name
    return [name for name in ids if name in fields and fields[name].type == fields[name].TYPE_STRING]


async def theirs(guarded: Guarded, url: str) -> dict[str, str]:
    """Have acme make one of everything."""
    admin = await token_of(url, "admin")
    async with guarded.client(admin) as client:
        waiting = await client.invoke("wait", {}, session_id="s1")
        asking = await client.invoke("ask", {"loan": "7"})
        destination = {"name": "hooks", "http": {"url": "http://127.0.0.1:9/"}}
        by_path = {rpc.method: rpc for rpc in rpcs()}
        put = by_path["PutDestination"]
        assert await guarded.call(put, admin, request_of(put, destination=destination)) is None
        assert (await (await client.invoke("post", {"a": "b"})).result(patience=20)) == "sent"

        async def asked() -> bool:
            return bool([one async for one in client.approvals().list(run_id=asking.run_id)])

        await until(asked)
        [approval] = [one async for one in client.approvals().list(run_id=asking.run_id)]
        assert approval.status is ApprovalStatus.PENDING
        [effect] = await fetch(url, "SELECT effect_id FROM effect")
        token = await client.access.create_token("spare", roles=["read"])
        return {
            "run_id": waiting.run_id,
            "approval_id": approval.approval_id,
            "effect_id": str(effect["effect_id"]),
            "token_id": token.token.token_id,
            "session_id": "s1",
            "destination": "hooks",
        }


def shape(told: HoldfastError | None) -> object:
    """Return what can be told of an answer, ids apart."""
    if told is None:
        return None
    facts = {name: UUID.sub("id", value) for name, value in told.facts.items()}
    violations = [(one.field, one.description) for one in told.violations]
    return (told.code, told.reason, UUID.sub("id", told.message), facts, violations)


@pytest.mark.timeout(300)
async def test_anothers_id_is_answered_exactly_as_one_that_is_not_there(
    database_url: str, tmp_path: Path
) -> None:
    async with guarding(database_url, tmp_path) as guarded:
        ids = await theirs(guarded, database_url)
        eve = await token_of(database_url, "admin", tenant="umbrella", user="eve")
        before = await state(database_url)
        differing, swept = [], []
        for rpc in rpcs():
            if rpc.service.endswith((".RunnerService", ".WorkService")) or rpc.client_streaming:
                continue
            for field in subjects(rpc, ids):
                if rpc.method in ("Invoke", "ListEffects", "ListRuns"):
                    continue  # there it is a name of the caller's own, or narrows their own list
                unknown = str(uuid.uuid4()) if UUID.fullmatch(ids[field]) else "nothing-of-the-kind"
                known_answer, unknown_answer = [
                    shape(await guarded.call(rpc, eve, request_of(rpc, **{field: named}, **_more(rpc))))
                    for named in (ids[field], unknown)
                ]
                swept.append(f"{rpc.method}.{field}")
                if str(known_answer).replace(ids[field], "id") != str(unknown_answer).replace(unknown, "id"):
                    differing.append((swept[-1], known_answer, unknown_answer))
        assert differing == []
        assert len(swept) >= 20, swept
        assert await state(database_url) == before  # and nothing has moved


@pytest.mark.timeout(300)
async def test_lists_and_conversations_show_nothing_of_anothers(database_url: str, tmp_path: Path) -> None:
    async with guarding(database_url, tmp_path) as guarded:
        ids = await theirs(guarded, database_url)
        eve = await token_of(database_url, "admin", tenant="umbrella", user="eve")
        async with guarded.client(eve) as client:
            assert [run async for run in client.list_runs()] == []
            assert [one async for one in client.approvals().list(statuses=list(ApprovalStatus)[1:])] == []
            assert [one async for one in client.outbox.list_effects()] == []
            assert [one.user async for one in client.access.tokens()] == ["eve"]
            assert [one async for one in client.access.audit()] == []
        attach = next(rpc for rpc in rpcs() if rpc.method == "Converse")
        told = [
            shape(await guarded.call(attach, eve, request_of(attach, attach={"run_id": named})))
            for named in (ids["run_id"], str(uuid.uuid4()))
        ]
        assert told[0] == told[1]
        assert told[0] is not None
        admin = await token_of(database_url, "admin")
        async with guarded.client(admin) as client:
            run = await client.get_run(ids["run_id"])
            assert run.status in (RunStatus.RUNNING, RunStatus.PARKED)


async def state(url: str) -> list[tuple[Any, ...]]:
    """Return what could have been changed."""
    await asyncio.sleep(0)
    runs = await fetch(url, "SELECT run_id, cancel_requested, paused::text FROM run_state ORDER BY run_id")
    tokens = await fetch(url, "SELECT token_id, revoke_time FROM access_token ORDER BY token_id")
    approvals = await fetch(url, "SELECT approval_id, status FROM approval ORDER BY approval_id")
    return [tuple(row) for row in (*runs, *tokens, *approvals)]


def _more(rpc: Rpc) -> dict[str, Any]:
    return MORE.get(rpc.method, {})
