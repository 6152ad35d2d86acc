"""Schedules start batches over gRPC: of the operator's sources, each time once, told for which time."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.kit.rpc.client import channel
from holdfast.v1 import (
    batch_pb2,
    batch_service_pb2,
    batch_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
)
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, fields_of, invoker, reason_of
from tests.kit.until import until
from tests.support.item_source import declare, fill

pb: Any = schedule_service_pb2
DAILY = {"cron": {"expression": "0 2 * * *"}}
BATCH = {
    "invocation": {"intent": "count"},
    "source": {"source": "accounts", "parameters": {"region": "emea"}},
}
DUE = {"invocation": {"intent": "count"}, "source": {"source": "due", "parameters": {"least": "2"}}}


@pytest.fixture
async def door(database_url: str, empty_database_url: str, tmp_path: Path) -> AsyncIterator[Invoker]:
    await fill(empty_database_url, ("1", "one"), ("2", "two"), ("3", "three"))
    async with invoker(database_url, **declare(tmp_path, empty_database_url)) as one:
        yield one


@pytest.fixture
async def opened(door: Invoker, worker: Runner) -> AsyncIterator[grpc.aio.Channel]:
    del worker
    async with channel(door.address) as one:
        yield one


@pytest.fixture
def schedules(opened: grpc.aio.Channel) -> Any:
    return schedule_service_pb2_grpc.ScheduleServiceStub(opened)


@pytest.fixture
def batches(opened: grpc.aio.Channel) -> Any:
    return batch_service_pb2_grpc.BatchServiceStub(opened)


async def create(schedules: Any, batch: Any, **more: Any) -> Any:
    wanted = {"name": "nightly", "timing": DAILY, "action": {"batch": batch}} | more
    return (await schedules.CreateSchedule(pb.CreateScheduleRequest(schedule=wanted))).schedule


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_time_makes_a_batch_of_the_source_and_runs_it(
    worker: Runner, schedules: Any, batches: Any
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    made = await create(schedules, DUE, timing={"one_shot_time": soon}, labels={"team": "ops"})
    assert (made.action.batch.source.source, made.action.batch.idempotency_key) == ("due", "")
    await until(lambda: len(worker.held) == 2)
    held = list(worker.held.values())
    told: list[dict[str, Any]] = [dict(one.assignment.invocation.payload) for one in held]
    moment = soon.isoformat().replace("+00:00", "Z")
    assert {each["id"] for each in told} == {"2", "3"}
    assert {each["scheduled_time"] for each in told} == {moment}
    assert [datetime.fromisoformat(each["at"]) for each in told] == [soon] * 2, "the source was told too"
    (fire,) = (await schedules.GetSchedule(pb.GetScheduleRequest(name="nightly"))).schedule.recent_fires
    read = await batches.GetBatch(batch_service_pb2.GetBatchRequest(batch_id=fire.batch_id))
    assert (fire.run_id, read.batch.schedule, read.batch.spec.display_name) == ("", "nightly", "nightly")
    assert (read.batch.status, read.progress.total) == (batch_pb2.BATCH_STATUS_RUNNING, 2)
    listed = (await schedules.ListSchedules(pb.ListSchedulesRequest(intent="count"))).schedules
    assert [(one.name, one.recent_fires[0].batch_id) for one in listed] == [("nightly", fire.batch_id)]
    for one in held:
        await worker.end(one)


async def test_a_trigger_cancels_the_older_batch(schedules: Any, batches: Any) -> None:
    await create(schedules, BATCH, overlap=3, paused=True)
    trigger = pb.TriggerScheduleRequest(name="nightly")
    first = (await schedules.TriggerSchedule(trigger)).fire

    async def standing(fire: Any) -> Any:
        request = batch_service_pb2.GetBatchRequest(batch_id=fire.batch_id)
        return (await batches.GetBatch(request)).batch.status

    async def running() -> bool:
        return bool(await standing(first) == batch_pb2.BATCH_STATUS_RUNNING)

    await until(running)
    second = (await schedules.TriggerSchedule(trigger)).fire
    assert second.batch_id != first.batch_id
    assert await standing(first) == batch_pb2.BATCH_STATUS_CANCELLED


async def test_every_field_that_is_wrong_is_named(schedules: Any) -> None:
    wrong = {
        "invocation": {"intent": "a b", "run_id": "mine"},
        "idempotency_key": "k",
        "max_parallelism": -1,
        "source": {"source": "accounts", "parameters": {"query": "SELECT 1"}},
    }
    error = await refusal(create(schedules, wrong, name=""))
    assert reason_of(error) == "INVALID_FIELD"
    assert {field.removeprefix("schedule.action.batch.") for field in fields_of(error)} == {
        "schedule.name",
        "idempotency_key",
        "max_parallelism",
        "source.parameters.query",
        "source.parameters.region",
        "invocation.intent",
        "invocation.run_id",
    }
    assert fields_of(await refusal(create(schedules, {"invocation": {"intent": "count"}}))) == [
        "schedule.action.batch.source"
    ]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"invocation": {"intent": "nobody"}}, "UNKNOWN_INTENT"),
        ({"apply": {"follow_up": {"intent": "nobody"}}}, "UNKNOWN_INTENT"),
        ({"apply": {"effect": {"destination": "nowhere"}}}, "DESTINATION_NOT_FOUND"),
        ({"invocation": {"intent": "count", "caller": {"tenant": "umbrella"}}}, "TENANT_MISMATCH"),
    ],
)
async def test_what_a_batch_needs_must_be_there(schedules: Any, more: Any, reason: str) -> None:
    assert reason_of(await refusal(create(schedules, BATCH | more))) == reason


async def test_a_source_that_was_taken_away_fails_its_time_and_says_so(
    door: Invoker, schedules: Any, batches: Any
) -> None:
    await create(schedules, BATCH)
    door.parts.sources._declared = {}  # as after a restart
    fire = (await schedules.TriggerSchedule(pb.TriggerScheduleRequest(name="nightly"))).fire
    assert fire.result == 5
    assert "no source declared" in fire.message
    assert not (await batches.ListBatches(batch_service_pb2.ListBatchesRequest())).batches
