"""A run's recorded steps reach the runner that replays it, and the people of its tenant."""

import uuid
from datetime import timedelta

import grpc
import pytest

from holdfast.ledger.mailbox import signal
from holdfast.ledger.values import Limits
from holdfast.v1 import checkpoint_service_pb2 as pb
from holdfast.v1.checkpoint_pb2 import Checkpoint, StepRecord
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from holdfast.v1.transcript_pb2 import STEP_KIND_WAIT
from tests.support.checkpoint import FINGERPRINT, message, reason_of, wire
from tests.support.commit import Floor


async def test_a_run_is_loaded_as_it_was_committed(stub: CheckpointServiceStub, floor: Floor) -> None:
    (run,) = await floor.lease(limits=Limits(max_steps=1000))
    sent = [message(run, n, *(f"k{n}.{at}" for at in range(200)), events=1, first=n + 1) for n in (1, 2, 3)]
    sent[0].emitted[""] = 1
    sent[2].emitted["map.1"] = 2
    async with wire(stub) as stream:
        for commit in sent:
            await stream.ask(commit)
    call = stub.LoadRun(pb.LoadRunRequest(run_id=str(run.run_id), epoch=run.epoch))
    pages = [page async for page in call]
    assert [len(page.steps) for page in pages] == [500, 100]
    assert [step for page in pages for step in page.steps] == [step for c in sent for step in c.steps]
    assert [dict(page.emitted) for page in pages] == [{}, {"": 1, "map.1": 2}]


async def test_a_run_is_loaded_with_what_waits_for_it_and_consumes_it_once(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    large = b'"' + b"x" * 1_000_000 + b'"'
    for n, payload in enumerate((b'{"a": 1}', large, large)):
        await signal(
            floor.db, "default", run.run_id, key="input", payload=payload, signal_id=f"s{n}", urgent=n == 1
        )
    receives = message(run, 1, "receive")
    receives.consumed_signal_ids.append("s0")
    request = pb.LoadRunRequest(run_id=str(run.run_id), epoch=run.epoch)
    async with wire(stub) as stream:
        pages = [page async for page in stub.LoadRun(request)]
        assert [len(page.signals) for page in pages] == [0, 2, 1]
        assert [page.mailbox_sequence for page in pages] == [0, 3, 3]
        first, second, _ = (each for page in pages for each in page.signals)
        assert (first.payload, first.sequence, first.urgent) == (b'{"a": 1}', 1, False)
        assert (second.signal_id, second.key, second.urgent) == ("s1", "input", True)
        for _ in range(2):
            (answer,) = await stream.ask(receives)
            assert answer.HasField("committed"), answer
        again = message(run, 2, "receive#2")
        again.consumed_signal_ids.append("s0")
        (answer,) = await stream.ask(again)
        assert (answer.refused.reason, answer.refused.retryable) == ("INVALID_FIELD", False)
        pages = [page async for page in stub.LoadRun(request)]
    assert [each.signal_id for page in pages for each in page.signals] == ["s1", "s2"]
    assert [step.key for page in pages for step in page.steps] == ["receive"]


async def test_only_the_holder_of_the_lease_loads_a_run(stub: CheckpointServiceStub, floor: Floor) -> None:
    (run,) = await floor.lease()
    asked = [
        (str(run.run_id), run.epoch + 1, "FENCED"),
        (str(uuid.uuid4()), 1, "RUN_NOT_FOUND"),
        ("nobody", 1, "INVALID_FIELD"),
        (str(run.run_id), 0, "INVALID_FIELD"),
    ]
    for run_id, epoch, reason in asked:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.LoadRun(pb.LoadRunRequest(run_id=run_id, epoch=epoch)).read()
        assert reason_of(caught.value) == reason


async def test_people_list_checkpoints_page_by_page(stub: CheckpointServiceStub, floor: Floor) -> None:
    (run,) = await floor.lease()
    commit = message(run, 1, *(f"k{at}" for at in range(5)))
    commit.steps[4].output = b"no json"
    async with wire(stub) as stream:
        await stream.ask(commit)
    found: list[Checkpoint] = []
    token = ""
    while True:
        request = pb.ListCheckpointsRequest(run_id=str(run.run_id), page_size=2, page_token=token)
        page = await stub.ListCheckpoints(request)
        found += page.checkpoints
        token = page.next_page_token
        if not token:
            break
    assert [(each.position, each.key) for each in found] == [(n + 1, f"k{n}") for n in range(5)]
    assert list(found[0].output.struct_value.fields["found"].list_value)[:3] == [1, 2.5, True]
    assert found[0].input.struct_value["ticket"] == 7
    assert found[4].output.string_value == "no json"
    assert found[0].run_attempt == 1
    assert found[0].HasField("create_time")


async def test_the_records_of_a_run_are_listed_with_what_it_emitted_when_asked_for(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease(limits=Limits(max_steps=1000))
    sent = [message(run, n, f"k{n}", f"k{n}.b", events=1, first=n + 1) for n in (1, 2)]
    begun = sent[1].steps.add(key="receive", kind=STEP_KIND_WAIT, fingerprint=FINGERPRINT, intent=True)
    begun.wait_for.FromSeconds(3600)
    sent[0].emitted[""] = 1
    sent[1].emitted["map.1"] = 2
    async with wire(stub) as stream:
        for commit in sent:
            await stream.ask(commit)
    request = pb.ListCheckpointsRequest(run_id=str(run.run_id), page_size=3, include_records=True)
    first = await stub.ListCheckpoints(request)
    request.page_token = first.next_page_token
    last = await stub.ListCheckpoints(request)
    assert (last.next_page_token, dict(first.emitted)) == ("", {})
    assert dict(last.emitted) == {"": 1, "map.1": 2}
    found = [*first.checkpoints, *last.checkpoints]
    assert [each.key for each in found] == ["k1", "k1.b", "k2", "k2.b", "receive"]
    records = [StepRecord.FromString(each.record) for each in found]
    assert records[:4] == [step for commit in sent for step in commit.steps][:4]
    assert records[4].intent
    assert timedelta(seconds=3500) < records[4].wait_for.ToTimedelta() < timedelta(seconds=3600)
    assert not any(each.HasField("input") or each.HasField("output") for each in found)
    plain = await stub.ListCheckpoints(pb.ListCheckpointsRequest(run_id=str(run.run_id)))
    assert [each.key for each in plain.checkpoints] == ["k1", "k1.b", "k2", "k2.b"]
    assert not any(each.record for each in plain.checkpoints)
    assert not plain.emitted


async def test_large_records_come_in_pages_that_fit_a_message(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease(limits=Limits(max_steps=1000))
    numbers = b"[" + b"1," * 450_000 + b"1]"
    async with wire(stub) as stream:
        for n in (1, 2):
            commit = message(run, n, f"k{n}")
            commit.steps[0].output = numbers
            await stream.ask(commit)
    request = pb.ListCheckpointsRequest(run_id=str(run.run_id), include_records=True)
    found: list[Checkpoint] = []
    while True:
        page = await stub.ListCheckpoints(request)
        found += page.checkpoints
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert [StepRecord.FromString(each.record).output for each in found] == [numbers, numbers]


async def test_a_foreign_tenants_run_does_not_exist(stub: CheckpointServiceStub, floor: Floor) -> None:
    (run,) = await floor.lease()
    for whole in (False, True):
        request = pb.ListCheckpointsRequest(run_id=str(run.run_id), include_records=whole)
        assert not (await stub.ListCheckpoints(request)).checkpoints
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListCheckpoints(request, metadata=(("holdfast-tenant", "another"),))
        assert reason_of(caught.value) == "RUN_NOT_FOUND"


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListCheckpointsRequest(run_id="x"),
        pb.ListCheckpointsRequest(run_id=str(uuid.uuid4()), page_size=-1),
        pb.ListCheckpointsRequest(run_id=str(uuid.uuid4()), page_size=1001),
        pb.ListCheckpointsRequest(run_id=str(uuid.uuid4()), page_token="next"),
        pb.ListCheckpointsRequest(run_id=str(uuid.uuid4()), page_token="9" * 30),
    ],
)
async def test_a_malformed_page_is_refused(
    stub: CheckpointServiceStub, request_: pb.ListCheckpointsRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListCheckpoints(request_)
    assert reason_of(caught.value) == "INVALID_FIELD"
