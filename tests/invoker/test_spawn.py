"""Children over gRPC: started by who holds their parent, found again, listed, and by no other door."""

import uuid
from typing import Any

import grpc
import pytest

from holdfast.v1 import event_service_pb2, run_pb2
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, fields_of, pb, reason_of


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def asked(above: Any, **more: Any) -> Any:
    """Return a child's envelope."""
    named = {"run_id": above.run_id, "epoch": above.epoch, "step": "spawn"} | more.pop("parent", {})
    return pb.InvokeRequest(**{"intent": "count", "idempotency_key": "k", "parent": named} | more)


async def held(door: Invoker, worker: Runner, **more: Any) -> Any:
    """Return the assignment of a run that the worker has."""
    await door.invoke(**more)
    return (await worker.take()).assignment


async def test_a_child_is_started_lent_to_and_found_again(door: Invoker, worker: Runner) -> None:
    parent = await held(door, worker, budget={"max_steps": 100, "max_tools": 16, "max_tokens": 160})
    first = await door.invoker.Invoke(asked(parent, budget={"max_steps": 7}))
    assert (first.reattached, first.parent_epoch) == (False, parent.epoch)
    run = first.run
    assert (run.parent_run_id, run.shape) == (parent.run_id, run_pb2.SHAPE_WORKER)
    assert (run.budget.max_steps, run.budget.max_tools, run.budget.max_tokens) == (7, 1, 10)
    again = await door.invoker.Invoke(asked(parent, budget={"max_steps": 7}))
    assert (again.reattached, again.run.run_id) == (True, run.run_id)
    above = await door.run(parent.run_id)
    assert (above.lent.steps, above.lent.tools, above.lent.tokens) == (7, 1, 10)
    child = (await worker.take(run.run_id)).assignment
    assert child.run_id == run.run_id
    assert not child.invocation.HasField("parent")
    listed = await door.invoker.ListRuns(pb.ListRunsRequest(parent_run_id=parent.run_id))
    assert [one.run_id for one in listed.runs] == [run.run_id]


async def test_what_a_child_may_not_have_is_named(door: Invoker, worker: Runner) -> None:
    parent = await held(door, worker)
    wrong: dict[str, dict[str, Any]] = {
        "handoff": {"handoff": {"budget": {"max_steps": 1}}},
        "not_before": {"not_before": {"seconds": 1}},
        "idempotency_key": {"idempotency_key": ""},
    }
    for field, more in wrong.items():
        assert fields_of(await refusal(door.invoker.Invoke(asked(parent, **more)))) == [field]
    listing = door.invoker.ListRuns(pb.ListRunsRequest(parent_run_id="x"))
    assert fields_of(await refusal(listing)) == ["parent_run_id"]


async def test_refusals_say_why(door: Invoker, worker: Runner) -> None:
    parent = await held(door, worker)
    refused: dict[str, dict[str, Any]] = {
        "FENCED": {"parent": {"epoch": parent.epoch + 1}},
        "RUN_NOT_FOUND": {"parent": {"run_id": str(uuid.uuid4())}},
        "BUDGET_EXCEEDED": {"budget": {"max_steps": 100_000}},
        "UNKNOWN_INTENT": {"intent": "nobody.serves.this"},
    }
    for reason, more in refused.items():
        assert reason_of(await refusal(door.invoker.Invoke(asked(parent, **more)))) == reason
    assert not (await door.run(parent.run_id)).HasField("lent")


async def test_children_come_in_by_invoke_alone(door: Invoker, worker: Runner) -> None:
    parent = await held(door, worker)
    talk = door.invoker.Converse(iter([pb.ConverseRequest(start={"invocation": asked(parent)})]))
    assert fields_of(await refusal(talk.read())) == ["start.invocation.parent"]
    publish = event_service_pb2.PublishEventsRequest(events=[asked(parent)])
    (answer,) = (await door.events.PublishEvents(publish)).results
    assert answer.refusal.field == "events[0].parent"


async def test_nobody_tells_a_parent_of_an_end_but_the_platform(door: Invoker, worker: Runner) -> None:
    parent = await held(door, worker)
    sent = pb.SignalRunRequest(run_id=parent.run_id, key=f"child:{uuid.uuid4()}")
    assert fields_of(await refusal(door.invoker.SignalRun(sent))) == ["key"]
