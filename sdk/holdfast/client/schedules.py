"""The calls about schedules, which the Invoker serves."""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from holdfast.client.link import Link
from holdfast.client.number import OverlapPolicy
from holdfast.client.schedule import Fire, Schedule, Timing
from holdfast.client.wire_schedule import fire_of, schedule_message, schedule_of, timing_message
from holdfast.client.wire_value import stamp_of, time_of
from holdfast.v1 import schedule_pb2, schedule_service_pb2_grpc
from holdfast.v1 import schedule_service_pb2 as pb


class Schedules:
    """Runs and batches that start by themselves: `client.schedules`. Names are the tenant's own."""

    def __init__(self, stub: schedule_service_pb2_grpc.ScheduleServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def create(self, schedule: Schedule) -> Schedule:
        """Create a schedule; the same again finds it. Raises `ScheduleExists`, `UnknownIntent`."""
        request = pb.CreateScheduleRequest(schedule=schedule_message(schedule))
        return schedule_of((await self._link.call(self._stub.CreateSchedule, request)).schedule)

    async def update(self, schedule: Schedule) -> Schedule:
        """Replace a schedule whole; whether it is paused stays. Raises `ScheduleNotFound`."""
        request = pb.UpdateScheduleRequest(schedule=schedule_message(schedule))
        return schedule_of((await self._link.call(self._stub.UpdateSchedule, request)).schedule)

    async def get(self, name: str) -> Schedule:
        """Return a schedule with its next time and what came of the latest. Raises `ScheduleNotFound`."""
        request = pb.GetScheduleRequest(name=name)
        return schedule_of((await self._link.call(self._stub.GetSchedule, request)).schedule)

    async def list(
        self,
        *,
        intent: str = "",
        paused: bool | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Schedule]:
        """Yield the schedules that match, by name, page by page."""
        request = pb.ListSchedulesRequest(
            intent=intent, paused=paused, labels=labels or {}, page_size=page_size
        )
        while True:
            page = await self._link.call(self._stub.ListSchedules, request)
            for schedule in page.schedules:
                yield schedule_of(schedule)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete(self, name: str) -> None:
        """Delete a schedule; what it has started goes on. Raises `ScheduleNotFound`."""
        await self._link.call(
            self._stub.DeleteSchedule, pb.DeleteScheduleRequest(name=name), repeatable=False
        )

    async def pause(self, name: str, reason: str = "") -> Schedule:
        """Keep a schedule from firing. Raises `ScheduleNotFound`."""
        request = pb.PauseScheduleRequest(name=name, reason=reason)
        return schedule_of((await self._link.call(self._stub.PauseSchedule, request)).schedule)

    async def resume(self, name: str) -> Schedule:
        """Let a schedule fire again; the times of the pause are left out. Raises `ScheduleNotFound`."""
        request = pb.ResumeScheduleRequest(name=name)
        return schedule_of((await self._link.call(self._stub.ResumeSchedule, request)).schedule)

    async def trigger(
        self,
        name: str,
        *,
        idempotency_key: str = "",
        overlap: OverlapPolicy = OverlapPolicy.UNSPECIFIED,
    ) -> Fire:
        """Fire now, also in a pause; once for a key. Raises `ScheduleNotFound`, `QueueFull`."""
        request = pb.TriggerScheduleRequest(
            name=name,
            idempotency_key=idempotency_key or str(uuid.uuid4()),
            overlap=schedule_pb2.OverlapPolicy.ValueType(overlap),
        )
        return fire_of((await self._link.call(self._stub.TriggerSchedule, request)).fire)

    async def backfill(
        self, name: str, start: datetime, end: datetime, *, dry_run: bool = False
    ) -> tuple[int, Sequence[datetime]]:
        """Fire for the times from `start` on and before `end` that started nothing, one after the other.

        Returns how many, and the first hundred; a dry run only counts. Raises `ScheduleNotFound`.
        """
        request = pb.BackfillScheduleRequest(
            name=name, start_time=stamp_of(start), end_time=stamp_of(end), dry_run=dry_run
        )
        answer = await self._link.call(self._stub.BackfillSchedule, request)
        return answer.fire_count, [time for stamp in answer.scheduled_times if (time := time_of(stamp))]

    async def preview(
        self, subject: str | Timing, *, after: datetime | None = None, count: int = 0
    ) -> Sequence[datetime]:
        """Return the next times of a schedule, by its name, or of a rule; jitter is left out."""
        request = pb.PreviewScheduleRequest(count=count)
        if isinstance(subject, str):
            request.name = subject
        else:
            request.timing.CopyFrom(timing_message(subject))
        if after is not None:
            request.after_time.CopyFrom(stamp_of(after))
        answer = await self._link.call(self._stub.PreviewSchedule, request)
        return [time for stamp in answer.scheduled_times if (time := time_of(stamp))]
