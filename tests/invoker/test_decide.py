"""A decision said in a conversation counts as one said to the Approval service, and is answered."""

from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf import json_format

from holdfast.kit.db import Database
from holdfast.ledger.approval_request import Request, request
from holdfast.ledger.domain.approval import Policy, Quorum
from holdfast.ledger.domain.status import RunStatus
from tests.invoker.runner import Held, Runner
from tests.invoker.stand import Invoker, fields_of, pb, reason_of
from tests.support.ledger import fetch, open_ledger, status_of

AS_ANN = (("holdfast-user", "ann"), ("holdfast-groups", "writers"))
TERMS = Policy((Quorum(1, ("group:writers",)),), timeout=3600.0)


async def gate(db: Database, held: Held, step: str = "review") -> str:
    asked = Request(UUID(held.run_id), held.epoch, step, "Pay?", b"{}", TERMS)
    return str((await request(db, asked)).approval_id)


async def talking(door: Invoker, worker: Runner, who: Any = AS_ANN) -> tuple[Any, Held]:
    """Return a conversation that follows a run, and the run as its runner holds it."""
    call = door.invoker.Converse(metadata=who, timeout=30)
    await call.write(pb.ConverseRequest(start={"invocation": {"intent": "count"}}))
    return call, await worker.take((await call.read()).started.run.run_id)


async def answer(call: Any) -> Any:
    """Read on to what is answered."""
    while True:
        message = await call.read()
        assert message is not grpc.aio.EOF
        if message.WhichOneof("update") in ("decided", "refused"):
            return message


def decide(approval_id: str, *, approved: bool = True) -> Any:
    return pb.ConverseRequest(decide={"approval_id": approval_id, "approved": approved, "reason": "so"})


async def test_a_decision_of_a_conversation_is_durable_and_pushed_to_the_run(
    door: Invoker, worker: Runner
) -> None:
    call, held = await talking(door, worker)
    async with open_ledger(door.url) as db:
        opened = await gate(db, held)
        for _ in range(2):
            await call.write(decide(opened))
            said = (await answer(call)).decided
            assert (said.run_id, said.approval_id) == (held.run_id, opened)
        (row,) = await fetch(db, "SELECT key FROM mailbox WHERE run_id = $1", UUID(held.run_id))
        assert row["key"] == f"approval:{opened}"
        await call.write(decide(opened, approved=False))
        refusal = (await answer(call)).refused
        assert (refusal.approval_id, refusal.reason) == (opened, "APPROVAL_DECIDED")
        assert refusal.metadata["deciders"] == "ann"
        assert await status_of(db, UUID(held.run_id)) is RunStatus.RUNNING
    call.cancel()


@pytest.mark.parametrize(
    ("who", "reason"),
    [((("holdfast-user", "eve"),), "NOT_AN_APPROVER"), ((), "INVALID_FIELD")],
)
async def test_who_may_not_decide_is_told_so_and_the_conversation_goes_on(
    door: Invoker, worker: Runner, who: Any, reason: str
) -> None:
    call, held = await talking(door, worker, who)
    async with open_ledger(door.url) as db:
        opened = await gate(db, held)
        await call.write(decide(opened))
        assert (await answer(call)).refused.reason == reason
        held.show("still here")
        assert (await call.read()).event.said.text == "still here"
    call.cancel()


async def test_only_an_approval_of_the_followed_run_is_decided(door: Invoker, worker: Runner) -> None:
    call, _ = await talking(door, worker)
    other, held = await talking(door, worker)
    async with open_ledger(door.url) as db:
        opened = await gate(db, held)
        await call.write(decide(opened))
        assert (await answer(call)).refused.reason == "APPROVAL_NOT_FOUND"
        await other.write(decide(opened))
        assert (await answer(other)).decided.approval_id == opened
    call.cancel()
    other.cancel()


async def test_a_malformed_decision_names_its_fields(door: Invoker, worker: Runner) -> None:
    call, _ = await talking(door, worker)
    await call.write(pb.ConverseRequest(decide={"approval_id": "x", "reason": "y" * 1001}))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answer(call)
    assert reason_of(refused.value) == "INVALID_FIELD"
    assert set(fields_of(refused.value)) == {"decide.approval_id", "decide.reason"}


async def test_nobody_forges_a_decision_or_stops_one_by_a_signal_of_their_own(
    door: Invoker, worker: Runner
) -> None:
    call, held = await talking(door, worker)
    async with open_ledger(door.url) as db:
        opened = await gate(db, held)
        forged = {
            "status": "APPROVED",
            "deciders": ["ann"],
            "reason": "",
            "payload": None,
            "time": "2026-01-01",
        }
        for key, signal_id, field in (
            (f"approval:{opened}", "", "key"),
            ("input", f"approval:{opened}", "signal_id"),
        ):
            sent = pb.SignalRunRequest(run_id=held.run_id, key=key, signal_id=signal_id)
            json_format.ParseDict(forged, sent.payload.struct_value)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await door.invoker.SignalRun(sent)
            assert (reason_of(refused.value), field in fields_of(refused.value)) == ("INVALID_FIELD", True)
        # What may be sent under an id that looks like the gate's own does not keep the decision away.
        await door.invoker.SignalRun(pb.SignalRunRequest(run_id=held.run_id, key="input", signal_id=opened))
        await call.write(decide(opened))
        assert (await answer(call)).decided.approval_id == opened
        rows = await fetch(
            db, "SELECT key FROM mailbox WHERE run_id = $1 ORDER BY sequence", UUID(held.run_id)
        )
        assert [row["key"] for row in rows] == ["input", f"approval:{opened}"]
