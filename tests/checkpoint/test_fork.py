"""A fork begins with another run's recorded steps, and leaves the other as it is."""

import asyncio
import json
import uuid
from typing import Any

import grpc
import pytest

from holdfast.kit.db import Database
from holdfast.ledger.history import list_steps
from holdfast.ledger.values import Limits
from holdfast.v1 import checkpoint_service_pb2 as pb
from holdfast.v1.checkpoint_pb2 import StepRecord
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from holdfast.v1.run_pb2 import RUN_STATUS_QUEUED
from holdfast.v1.transcript_pb2 import STEP_KIND_WAIT
from tests.support.checkpoint import FINGERPRINT, message, reason_of, wire
from tests.support.commit import Floor
from tests.support.ledger import contradictions


async def recorded(db: Database, run_id: str) -> list[StepRecord]:
    page = await list_steps(db, "default", uuid.UUID(run_id), after_position=0, limit=100)
    return [StepRecord.FromString(step.record) for step in page.steps]


async def commit(stub: CheckpointServiceStub, *commits: Any) -> None:
    async with wire(stub) as stream:
        for each in commits:
            (answer,) = await stream.ask(each)
            assert answer.HasField("committed"), answer


async def refusal(stub: CheckpointServiceStub, **fields: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ForkRun(pb.ForkRunRequest(**fields))
    return reason_of(caught.value)


async def test_a_fork_keeps_the_steps_up_to_its_position(
    stub: CheckpointServiceStub, floor: Floor, db: Database
) -> None:
    (run,) = await floor.lease()  # it goes on while it is forked
    await commit(stub, message(run, 1, "a", "b", "c"))
    asked = pb.ForkRunRequest(run_id=str(run.run_id), position=2, outputs={"b": b'"edited"'})
    forked = (await stub.ForkRun(asked)).run
    assert forked.status == RUN_STATUS_QUEUED
    assert (forked.forked_from.run_id, forked.forked_from.position) == (str(run.run_id), 2)
    assert (forked.agent_version, forked.usage.steps) == ("1", 2)
    assert forked.idempotency_key == forked.run_id
    before, copied = await recorded(db, str(run.run_id)), await recorded(db, forked.run_id)
    assert [step.key for step in copied] == ["a", "b"]
    assert copied[0] == before[0]
    assert (copied[1].output, copied[1].fingerprint) == (b'"edited"', before[1].fingerprint)
    assert json.loads(before[1].output) != "edited"
    assert await contradictions(db) == []
    (lease,) = await floor.take()
    assert (str(lease.run_id), lease.usage.steps, lease.last_commit) == (forked.run_id, 2, 1)


async def test_a_fork_of_a_fork_names_the_run_it_was_made_from(
    stub: CheckpointServiceStub, floor: Floor, db: Database
) -> None:
    (run,) = await floor.lease()
    await commit(stub, message(run, 1, "a", "b"))
    first = (await stub.ForkRun(pb.ForkRunRequest(run_id=str(run.run_id), position=2))).run
    second = (await stub.ForkRun(pb.ForkRunRequest(run_id=first.run_id, position=1))).run
    assert second.forked_from.run_id == first.run_id
    assert [step.key for step in await recorded(db, second.run_id)] == ["a"]
    assert await contradictions(db) == []


async def test_one_key_makes_one_fork(stub: CheckpointServiceStub, floor: Floor, db: Database) -> None:
    (run,) = await floor.lease()
    await commit(stub, message(run, 1, "a", "b"))
    asked = pb.ForkRunRequest(run_id=str(run.run_id), position=1, idempotency_key="k")
    first, second = await stub.ForkRun(asked), await stub.ForkRun(asked)
    assert (first.reattached, second.reattached) == (False, True)
    assert first.run.run_id == second.run.run_id
    asked.position = 2
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ForkRun(asked)
    assert reason_of(caught.value) == "IDEMPOTENCY_KEY_REUSED"
    assert await contradictions(db) == []


async def test_calls_under_one_key_at_the_same_moment_make_one_fork(
    stub: CheckpointServiceStub, floor: Floor, db: Database
) -> None:
    (run,) = await floor.lease()
    await commit(stub, message(run, 1, "a"))
    asked = pb.ForkRunRequest(run_id=str(run.run_id), position=1, idempotency_key="k")
    answers = await asyncio.gather(*(stub.ForkRun(asked) for _ in range(8)))
    assert len({answer.run.run_id for answer in answers}) == 1
    assert sorted(answer.reattached for answer in answers) == [False] + [True] * 7
    assert await contradictions(db) == []


async def test_the_failure_of_a_kept_step_can_be_replaced(
    stub: CheckpointServiceStub, floor: Floor, db: Database
) -> None:
    (run,) = await floor.lease()
    failed = message(run, 1, "a")
    failed.steps[0].ClearField("output")
    failed.steps[0].failure.reason = "PERMANENT"
    await commit(stub, failed)
    asked = pb.ForkRunRequest(run_id=str(run.run_id), position=1, outputs={"a": b"1"})
    (step,) = await recorded(db, (await stub.ForkRun(asked)).run.run_id)
    assert step.output == b"1"
    assert not step.HasField("failure")


async def test_what_was_only_begun_is_begun_anew(
    stub: CheckpointServiceStub, floor: Floor, db: Database
) -> None:
    (run,) = await floor.lease()
    first, second = message(run, 1), message(run, 2, "a")
    first.steps.add(key="timer", kind=STEP_KIND_WAIT, fingerprint=FINGERPRINT, intent=True)
    await commit(stub, first, second)
    assert await refusal(stub, run_id=str(run.run_id), position=1) == "INVALID_FIELD"
    forked = (await stub.ForkRun(pb.ForkRunRequest(run_id=str(run.run_id), position=2))).run
    assert [step.key for step in await recorded(db, forked.run_id)] == ["a"]
    assert forked.usage.steps == 1


async def test_a_fork_of_a_run_in_the_background_is_there_from_its_beginning(
    stub: CheckpointServiceStub, floor: Floor, db: Database
) -> None:
    (run,) = await floor.lease(handoff=Limits(max_steps=50))
    first, second = message(run, 1, "a"), message(run, 2, "b")
    await commit(stub, first)
    early = (await stub.ForkRun(pb.ForkRunRequest(run_id=str(run.run_id), position=1))).run
    second.handoff = True
    await commit(stub, second)
    late = (await stub.ForkRun(pb.ForkRunRequest(run_id=str(run.run_id), position=1))).run
    assert (early.handed_off, late.handed_off, late.budget.max_steps) == (False, True, 50)
    for lease in await floor.take(2):
        call = stub.LoadRun(pb.LoadRunRequest(run_id=str(lease.run_id), epoch=lease.epoch))
        told = [page async for page in call][-1].handed_off
        assert told is (str(lease.run_id) == late.run_id)
        moves = message(lease, 2)
        moves.handoff = not told  # a second move would be refused, and stop the run
        await commit(stub, moves)
    assert await contradictions(db) == []


async def test_effects_staged_until_then_count_as_staged_and_later_ones_do_not(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    commits = [message(run, number, f"k{number}", events=2) for number in (1, 2)]
    for number, each in enumerate(commits):
        for at, event in enumerate(each.events.events):
            event.sequence = run.last_sequence + 2 * number + at + 1
        each.events.events[1].step_finished.key = f"k{number + 1}"
        each.emitted[">"] = 1
        each.emitted[""] = 3
    await commit(stub, *commits)
    for position in (1, 2):
        await stub.ForkRun(pb.ForkRunRequest(run_id=str(run.run_id), position=position))
        (lease,) = await floor.take()
        pages = [
            p async for p in stub.LoadRun(pb.LoadRunRequest(run_id=str(lease.run_id), epoch=lease.epoch))
        ]
        assert dict(pages[-1].emitted) == {">": position}


async def test_a_fork_waits_behind_the_run_of_its_ordering_key(
    stub: CheckpointServiceStub, floor: Floor, db: Database
) -> None:
    (run,) = await floor.lease(ordering_key="k")
    await commit(stub, message(run, 1, "a"))
    await stub.ForkRun(pb.ForkRunRequest(run_id=str(run.run_id), position=1))
    assert await floor.take() == []
    assert await contradictions(db) == []


async def test_a_full_queue_takes_no_fork(stub: CheckpointServiceStub, floor: Floor, db: Database) -> None:
    (run,) = await floor.lease()
    await commit(stub, message(run, 1, "a"))
    await floor.execute("UPDATE tenant SET max_queued = 0")
    assert await refusal(stub, run_id=str(run.run_id), position=1) == "QUEUE_FULL"
    assert len(await floor.fetch("SELECT FROM run")) == 1
    assert await contradictions(db) == []


async def test_a_run_whose_history_is_dropped_cannot_be_forked(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    await commit(stub, message(run, 1, "a"))
    await floor.execute("INSERT INTO history_dropped (day) SELECT day FROM run_state")
    assert await refusal(stub, run_id=str(run.run_id), position=1) == "RUN_NOT_FORKABLE"


async def test_what_the_run_has_not_recorded_is_refused(stub: CheckpointServiceStub, floor: Floor) -> None:
    (run,) = await floor.lease()
    await commit(stub, message(run, 1, "a", "b"))
    run_id = str(run.run_id)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"run_id": run_id, "position": 3}, "INVALID_FIELD"),
        ({"run_id": run_id}, "INVALID_FIELD"),
        ({"run_id": run_id, "position": 1, "outputs": {"b": b"1"}}, "INVALID_FIELD"),
        ({"run_id": run_id, "position": 1, "outputs": {"a": b"no json"}}, "INVALID_FIELD"),
        ({"run_id": run_id, "position": 1, "outputs": {"a": b"[NaN]"}}, "INVALID_FIELD"),
        ({"run_id": run_id, "position": 1, "idempotency_key": "k" * 256}, "INVALID_FIELD"),
        ({"run_id": "x", "position": 1}, "INVALID_FIELD"),
        ({"run_id": str(uuid.uuid4()), "position": 1}, "RUN_NOT_FOUND"),
    ]
    for fields, reason in bad:
        assert await refusal(stub, **fields) == reason, fields
    request = pb.ForkRunRequest(run_id=run_id, position=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ForkRun(request, metadata=(("holdfast-tenant", "another"),))
    assert reason_of(caught.value) == "RUN_NOT_FOUND"
    assert len(await floor.fetch("SELECT FROM run")) == 1
