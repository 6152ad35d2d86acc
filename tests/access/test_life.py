"""Runs live under identity as they do without, through children, gates and deaths; nobody acts for others."""

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.client import ApprovalStatus, Client, Event, Person, RunStatus
from holdfast.client.errors import (
    CapabilityRefused,
    HoldfastError,
    NotAnApprover,
    PermissionDenied,
    RunNotFound,
    TenantMismatch,
    Unauthenticated,
)
from holdfast.kit.auth.capability import Capabilities, Capability
from tests.access.guarded import CAPABILITY_KEY, KEY, Guarded, fetch, guarding, request_of, token_of
from tests.contract.description import rpcs
from tests.kit.until import until

RPC = {rpc.method: rpc for rpc in rpcs()}


async def pending(client: Client, run_id: str) -> str:
    found: list[str] = []

    async def asked() -> bool:
        found[:] = [one.approval_id async for one in client.approvals().list(run_id=run_id)]
        return bool(found)

    await until(asked)
    return found[0]


async def seen(client: Client, run_id: str) -> None:
    """Watch a run to its end."""
    async with client.watch(run_id) as events:
        async for _ in events:
            pass


async def status_of(client: Client, run_id: str, status: RunStatus) -> None:
    async def reached() -> bool:
        return (await client.get_run(run_id)).status is status

    await until(reached, deadline=20)


@pytest.mark.timeout(300)
async def test_a_run_has_children_and_gates_and_survives_its_runner(
    database_url: str, tmp_path: Path
) -> None:
    async with guarding(database_url, tmp_path) as guarded:
        async with guarded.client(KEY.sign({"roles": ["invoke", "operate"]})) as ada:
            family = await ada.invoke("family", {"number": 1})
            assert await family.result(patience=30) == 3
            assert (await ada.get_run(family.run_id)).user == "ada"  # by the credential, not by a word
            [child] = [run async for run in ada.list_runs() if run.intent == "add"]
            assert child.user == "ada"
            texts = []
            async with (await ada.invoke("add", {"number": 5})).watch() as events:
                texts = [each.text async for each in events if isinstance(each, Event) and each.text]
            assert texts == ["adding"]
            asking = await ada.invoke("ask", {"loan": "7"})
            approval = await pending(ada, asking.run_id)
            await people_decide_as_whom_they_are(guarded, approval)
            assert await asking.result(patience=30) == "approved"
            waiting = await ada.invoke("wait", {})
            await status_of(ada, waiting.run_id, RunStatus.PARKED)
            await waiting.cancel("enough")
            await status_of(ada, waiting.run_id, RunStatus.CANCELLED)
            held = await ada.invoke("ask", {"loan": "8"})
            approval = await pending(ada, held.run_id)
            await guarded.suite.processes["runner"].kill()
            signer = KEY.sign({"sub": "grace", "groups": ["signers"], "roles": ["approve"]})
            async with guarded.client(signer) as grace:
                await grace.approvals().approve(approval)
            assert await held.result(patience=60) == "approved"  # loaded anew under another lease
        await the_audit_tells_it(guarded, database_url)


async def people_decide_as_whom_they_are(guarded: Guarded, approval: str) -> None:
    """Nobody decides by saying that they may."""
    eve = KEY.sign({"sub": "eve", "roles": ["approve"]})
    async with guarded.client(eve) as client:
        with pytest.raises(NotAnApprover):
            await client.approvals(Person("eve", groups=("signers",))).approve(approval)
        with pytest.raises(TenantMismatch):
            await client.approvals(Person("grace", groups=("signers",))).approve(approval)
    async with guarded.client(KEY.sign({"groups": ["signers"], "roles": ["invoke"]})) as client:
        with pytest.raises(PermissionDenied):
            await client.approvals().approve(approval)
    async with guarded.client(KEY.sign({"sub": "grace", "groups": ["signers"], "roles": ["approve"]})) as one:
        decided = await one.approvals().approve(approval)
        assert decided.status is ApprovalStatus.APPROVED
        assert decided.votes == ("grace approves",)


async def the_audit_tells_it(guarded: Guarded, url: str) -> None:
    """Each call that counts has two records: from before it, and of how it ended."""
    async with guarded.client(await token_of(url, "admin")) as admin:
        records = [record async for record in admin.access.audit()]
    told = [(one.user, one.action, one.outcome) for one in reversed(records)]
    assert ("eve", "DecideApproval", "PERMISSION_DENIED") in told
    assert ("grace", "DecideApproval", "OK") in told
    assert ("ada", "CancelRun", "OK") in told
    assert all(one.credential.startswith("jwt:") for one in records)
    begun = {one.call_id for one in records if not one.outcome}
    assert begun == {one.call_id for one in records if one.outcome}
    cancel = next(one for one in records if one.action == "CancelRun")
    assert cancel.subject["reason"] == "enough"


@pytest.mark.timeout(300)
async def test_a_runner_touches_only_the_run_whose_lease_it_shows(database_url: str, tmp_path: Path) -> None:
    async with guarding(database_url, tmp_path) as guarded:
        runner = await token_of(database_url, "runner", tenant="*", user="another")
        async with guarded.client(await token_of(database_url, "admin")) as ada:
            mine, other = [(await ada.invoke("wait", {"n": n})).run_id for n in ("1", "2")]
            for run_id in (mine, other):
                await status_of(ada, run_id, RunStatus.PARKED)
        made = Capabilities([CAPABILITY_KEY.encode()])
        shown = [("holdfast-capability", made.issue(Capability("acme", uuid.UUID(mine), 1)))]

        async def refused(method: str, more: Any, **fields: Any) -> HoldfastError | None:
            return await guarded.call(RPC[method], runner, request_of(RPC[method], **fields), more=more)

        about_another: dict[str, dict[str, Any]] = {
            "LoadRun": {"run_id": other, "epoch": 1},
            "RequestApproval": {
                "run_id": other,
                "epoch": 1,
                "step": "s",
                "policy": {
                    "timeout": timedelta(minutes=1),
                    "required": [{"approvers": [{"user": "eve"}]}],
                    "default_decision": 2,
                },
            },
            "Invoke": {"intent": "add", "idempotency_key": "k", "parent": {"run_id": other, "epoch": 1}},
        }
        for method, fields in about_another.items():
            assert isinstance(await refused(method, shown, **fields), CapabilityRefused), method
            assert isinstance(await refused(method, [], **fields), CapabilityRefused), method
        forged = Capabilities([b"f" * 32]).issue(Capability("acme", uuid.UUID(other), 1))
        told = await refused("LoadRun", [("holdfast-capability", forged)], run_id=other, epoch=1)
        assert isinstance(told, CapabilityRefused)
        assert isinstance(await refused("Invoke", shown, intent="add"), CapabilityRefused)
        # Whoever holds a lease stops its children, and nobody else's.
        assert isinstance(await refused("CancelRun", shown, run_id=other), RunNotFound)
        assert isinstance(await refused("CancelRun", shown, run_id=mine), RunNotFound)
        await commits_are_refused(guarded, runner, shown[0][1], other)
        rows = await fetch(database_url, "SELECT cancel_requested FROM run_state")
        assert not any(row["cancel_requested"] for row in rows)


async def commits_are_refused(guarded: Guarded, runner: str, capability: str, run_id: str) -> None:
    """A commit carries the capability of its own run."""
    from holdfast.v1 import checkpoint_pb2, checkpoint_service_pb2, checkpoint_service_pb2_grpc

    stub: Any = checkpoint_service_pb2_grpc.CheckpointServiceStub(guarded._channel("checkpoint"))
    for shown in ("", capability, "x"):
        commit = checkpoint_pb2.Commit(run_id=run_id, epoch=1, number=9, capability=shown)
        call = stub.Commit(metadata=[("authorization", f"Bearer {runner}")])
        await call.write(checkpoint_service_pb2.CommitRequest(commits=[commit]))
        answer = (await call.read()).answers[0]
        assert answer.refused.reason == "CAPABILITY_REFUSED"
        call.cancel()


@pytest.mark.timeout(300)
async def test_a_stream_ends_with_its_credential_and_an_envelope_names_nobody_else(
    database_url: str, tmp_path: Path
) -> None:
    async with guarding(database_url, tmp_path) as guarded:
        admin = await token_of(database_url, "admin")
        async with guarded.client(admin) as client:
            with pytest.raises(TenantMismatch):
                await client.invoke("add", {"number": 1}, user="eve")
            me = await client.access.me()
            assert (me.tenant, me.user, me.roles, me.platform) == ("acme", "ada", ["admin"], False)
            waiting = await client.invoke("wait", {})
            short = await client.access.create_token("short", roles=["read"], ttl=3.0)
            async with guarded.client(short.secret) as reader:
                with pytest.raises(Unauthenticated):
                    await seen(reader, waiting.run_id)
            with pytest.raises(PermissionDenied):
                await client.access.create_token("root", roles=["admin"], tenant="*")
            with pytest.raises(PermissionDenied):
                await client.access.create_token("spy", roles=["read"], tenant="umbrella")
            made = await client.access.create_token("spare", roles=["read"])
            await client.access.revoke_token(made.token.token_id)
            async with guarded.client(made.secret) as revoked:
                with pytest.raises(Unauthenticated):
                    await revoked.access.me()
        async with guarded.client(admin, tenant="umbrella") as client:
            with pytest.raises(TenantMismatch):
                await client.access.me()
        root = await token_of(database_url, "admin", tenant="*", user="root")
        async with guarded.client(root, tenant="umbrella") as client:
            assert (await client.access.me()).tenant == "umbrella"
            made = await client.access.create_token("theirs", roles=["read"])
            assert made.token.tenant == "umbrella"
