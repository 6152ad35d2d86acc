"""Schedules over gRPC: started for their tenant alone, and every wrong field named."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from holdfast.kit.rpc.client import channel
from holdfast.v1 import schedule_service_pb2, schedule_service_pb2_grpc
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, fields_of, of_tenant, reason_of
from tests.kit.until import until

pb: Any = schedule_service_pb2
DAILY = {"cron": {"expression": "0 2 * * *", "time_zone": "Europe/Berlin"}}


@pytest.fixture
async def schedules(door: Invoker, worker: Runner) -> AsyncIterator[Any]:
    del worker
    async with channel(door.address) as opened:
        yield schedule_service_pb2_grpc.ScheduleServiceStub(opened)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def schedule(name: str = "nightly", **more: Any) -> dict[str, Any]:
    return {"name": name, "timing": DAILY, "action": {"run": {"intent": "count"}}} | more


async def create(schedules: Any, name: str = "nightly", **more: Any) -> Any:
    return (
        await schedules.CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(name, **more)))
    ).schedule


async def test_a_schedule_is_kept_as_given_and_shown_with_what_it_means(schedules: Any) -> None:
    made = await create(schedules, labels={"team": "ops"}, overlap=2)
    assert made.next_time.ToDatetime(UTC) > datetime.now(UTC)
    assert made.catch_up_window.seconds == 60
    assert (made.timing.cron.time_zone, made.overlap, made.labels["team"]) == ("Europe/Berlin", 2, "ops")
    assert await create(schedules, labels={"team": "ops"}, overlap=2) == made
    error = await refusal(create(schedules))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "SCHEDULE_EXISTS")
    changed = await schedules.UpdateSchedule(pb.UpdateScheduleRequest(schedule=schedule()))
    assert not changed.schedule.labels
    assert changed.schedule.create_time == made.create_time


async def test_a_run_is_told_for_which_time_it_was_started(
    door: Invoker, worker: Runner, schedules: Any
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    await create(schedules, timing={"one_shot_time": soon}, action={"run": {"intent": "count"}})
    await until(lambda: len(worker.held) == 1)
    run_id = next(iter(worker.held))
    told = (await door.run(run_id)).payload["scheduled_time"]
    assert datetime.fromisoformat(told) == soon
    fires = (await schedules.GetSchedule(pb.GetScheduleRequest(name="nightly"))).schedule.recent_fires
    assert [(fire.run_id, fire.result) for fire in fires] == [(run_id, 1)]


async def test_a_trigger_cancels_the_older_one_with_its_runner(worker: Runner, schedules: Any) -> None:
    await create(schedules, overlap=3, paused=True)
    trigger = pb.TriggerScheduleRequest(name="nightly")
    first = (await schedules.TriggerSchedule(trigger)).fire
    await until(lambda: first.run_id in worker.held)
    second = (await schedules.TriggerSchedule(trigger)).fire
    assert second.run_id != first.run_id
    await until(lambda: first.run_id in worker.cancels)


async def test_every_field_that_is_wrong_is_named(schedules: Any) -> None:
    wrong = {
        "name": "",
        "timing": {
            "cron": {"expression": "61 * * * *", "time_zone": "Mars/Olympus"},
            "start_time": datetime(2027, 1, 2, tzinfo=UTC),
            "jitter": timedelta(days=40),
        },
        "action": {
            "run": {"intent": "a b", "idempotency_key": "k", "wait": timedelta(seconds=1), "priority": 11}
        },
        "catch_up_window": timedelta(days=32),
        "overlap": 9,
    }
    error = await refusal(schedules.CreateSchedule(pb.CreateScheduleRequest(schedule=wrong)))
    assert reason_of(error) == "INVALID_FIELD"
    assert set(fields_of(error)) == {
        "schedule.name",
        "schedule.timing.cron.expression",
        "schedule.timing.cron.time_zone",
        "schedule.timing.jitter",
        "schedule.action.run.intent",
        "schedule.action.run.idempotency_key",
        "schedule.action.run.wait",
        "schedule.action.run.priority",
        "schedule.catch_up_window",
        "schedule.overlap",
    }


@pytest.mark.parametrize(
    ("timing", "field"),
    [
        ({}, "schedule.timing"),
        ({"interval": {"interval": timedelta(milliseconds=10)}}, "schedule.timing.interval.interval"),
        (
            {"interval": {"interval": timedelta(hours=1)}, "jitter": timedelta(hours=1)},
            "schedule.timing.jitter",
        ),
        ({"cron": {"expression": "*/10 * * * *"}, "jitter": timedelta(minutes=10)}, "schedule.timing.jitter"),
        ({"one_shot_time": datetime(2020, 1, 1, tzinfo=UTC)}, "schedule.timing"),
        (DAILY | {"end_time": datetime(2020, 1, 1, tzinfo=UTC)}, "schedule.timing"),
        (
            DAILY
            | {"start_time": datetime(2030, 1, 1, tzinfo=UTC), "end_time": datetime(2029, 1, 1, tzinfo=UTC)},
            "schedule.timing.end_time",
        ),
    ],
)
async def test_a_rule_that_cannot_be_is_named(schedules: Any, timing: Any, field: str) -> None:
    assert fields_of(await refusal(create(schedules, timing=timing))) == [field]


async def test_an_intent_nobody_serves_is_refused(schedules: Any) -> None:
    error = await refusal(create(schedules, action={"run": {"intent": "nobody"}}))
    assert reason_of(error) == "UNKNOWN_INTENT"
    other = {"run": {"intent": "count", "caller": {"tenant": "umbrella"}}}
    assert reason_of(await refusal(create(schedules, action=other))) == "TENANT_MISMATCH"
    assert fields_of(await refusal(create(schedules, action={}))) == ["schedule.action"]


async def test_a_tenant_sees_its_own_schedules_only(schedules: Any) -> None:
    await create(schedules)
    umbrella = of_tenant("umbrella")
    now = datetime.now(UTC)
    for call in (
        schedules.GetSchedule(pb.GetScheduleRequest(name="nightly"), metadata=umbrella),
        schedules.UpdateSchedule(pb.UpdateScheduleRequest(schedule=schedule()), metadata=umbrella),
        schedules.DeleteSchedule(pb.DeleteScheduleRequest(name="nightly"), metadata=umbrella),
        schedules.PauseSchedule(pb.PauseScheduleRequest(name="nightly"), metadata=umbrella),
        schedules.ResumeSchedule(pb.ResumeScheduleRequest(name="nightly"), metadata=umbrella),
        schedules.TriggerSchedule(pb.TriggerScheduleRequest(name="nightly"), metadata=umbrella),
        schedules.PreviewSchedule(pb.PreviewScheduleRequest(name="nightly"), metadata=umbrella),
        schedules.BackfillSchedule(
            pb.BackfillScheduleRequest(name="nightly", start_time=now - timedelta(days=2), end_time=now),
            metadata=umbrella,
        ),
    ):
        assert reason_of(await refusal(call)) == "SCHEDULE_NOT_FOUND"
    listed = await schedules.ListSchedules(pb.ListSchedulesRequest(), metadata=umbrella)
    assert list(listed.schedules) == []


async def test_a_list_is_read_page_by_page_and_filtered(schedules: Any) -> None:
    for n in range(5):
        await create(schedules, f"s{n}", labels={"n": str(n % 2)}, paused=n == 3, pause_reason="later")
    request = pb.ListSchedulesRequest(page_size=2)
    names: list[str] = []
    while True:
        page = await schedules.ListSchedules(request)
        names += [one.name for one in page.schedules]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == [f"s{n}" for n in range(5)]
    for which, expected in (
        ({"paused": True}, ["s3"]),
        ({"labels": {"n": "1"}, "paused": False}, ["s1"]),
        ({"intent": "other"}, []),
    ):
        page = await schedules.ListSchedules(pb.ListSchedulesRequest(**which))
        assert [one.name for one in page.schedules] == expected
    error = await refusal(schedules.ListSchedules(pb.ListSchedulesRequest(page_size=501, page_token="x")))
    assert fields_of(error) == ["page_size", "page_token"]


async def test_a_preview_shows_the_times_over_a_change_of_the_clock(schedules: Any) -> None:
    request = pb.PreviewScheduleRequest(
        timing=DAILY, after_time=datetime(2026, 3, 28, 12, tzinfo=UTC), count=2
    )
    times = (await schedules.PreviewSchedule(request)).scheduled_times
    assert [time.ToDatetime(UTC) for time in times] == [
        datetime(2026, 3, 29, 1, tzinfo=UTC),
        datetime(2026, 3, 30, 0, tzinfo=UTC),
    ]
    assert fields_of(await refusal(schedules.PreviewSchedule(pb.PreviewScheduleRequest(count=1001)))) == [
        "name",
        "count",
    ]


async def test_a_backfill_answers_with_its_times(schedules: Any) -> None:
    await create(schedules)
    request = pb.BackfillScheduleRequest(
        name="nightly",
        start_time=datetime(2026, 3, 1, tzinfo=UTC),
        end_time=datetime(2026, 3, 4, tzinfo=UTC),
        dry_run=True,
    )
    answer = await schedules.BackfillSchedule(request)
    assert (answer.fire_count, len(answer.scheduled_times)) == (3, 3)
    error = await refusal(schedules.BackfillSchedule(pb.BackfillScheduleRequest(name="nightly")))
    assert fields_of(error)[:2] == ["start_time", "end_time"]
