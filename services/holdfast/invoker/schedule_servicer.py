"""Serves `ScheduleService`: what starts by itself, each time once."""

import asyncio
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import grpc

from holdfast.invoker.batches import Batches
from holdfast.invoker.envelope import Violations
from holdfast.invoker.parts import Parts
from holdfast.invoker.schedule_message import (
    fire_message,
    read_name,
    read_overlap,
    read_schedule,
    read_time,
    read_timing,
    schedule_message,
)
from holdfast.kit.rpc.page import cursor_of, size_of, token_of
from holdfast.kit.rpc.run import timestamp
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.kit.rpc.violation import Violations as PageViolations
from holdfast.ledger import schedule as ledger_schedule
from holdfast.ledger.domain.schedule import Timing
from holdfast.ledger.schedule import ScheduleFilter
from holdfast.ledger.schedule_row import Definition
from holdfast.ledger.timing import next_time
from holdfast.v1 import schedule_pb2, schedule_service_pb2_grpc
from holdfast.v1 import schedule_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]
_MOST_PREVIEWED: Final = 1000
_MOST_TIMES_TOLD: Final = 100


class ScheduleServicer(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """Schedules, and what people ask of them."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db
        self._intents = parts.intents
        self._scheduling = parts.scheduling
        self._starting = parts.starting
        self._batches = Batches(parts)

    async def CreateSchedule(  # noqa: N802 - the contract's name
        self, request: pb.CreateScheduleRequest, context: Context
    ) -> pb.CreateScheduleResponse:
        """Create a schedule."""
        del context
        made = await ledger_schedule.create(self._db, await self._wanted(request.schedule))
        return pb.CreateScheduleResponse(schedule=schedule_message(made))

    async def UpdateSchedule(  # noqa: N802
        self, request: pb.UpdateScheduleRequest, context: Context
    ) -> pb.UpdateScheduleResponse:
        """Replace a schedule."""
        del context
        changed = await ledger_schedule.update(self._db, await self._wanted(request.schedule))
        return pb.UpdateScheduleResponse(schedule=schedule_message(changed))

    async def GetSchedule(  # noqa: N802
        self, request: pb.GetScheduleRequest, context: Context
    ) -> pb.GetScheduleResponse:
        """Read a schedule."""
        del context
        name = _named(request.name)
        async with self._db.connection() as connection:
            found = await ledger_schedule.get(connection, current_tenant(), name)
        return pb.GetScheduleResponse(schedule=schedule_message(found))

    async def ListSchedules(  # noqa: N802
        self, request: pb.ListSchedulesRequest, context: Context
    ) -> pb.ListSchedulesResponse:
        """List schedules by name."""
        del context
        wrong = PageViolations()
        limit = size_of(wrong, request.page_size)
        after = cursor_of(wrong, "schedules", request.page_token)
        wrong.check()
        filters = Violations()
        filters.text("intent", request.intent)
        filters.labels("labels", request.labels)
        filters.settle()
        paused = request.paused if request.HasField("paused") else None
        which = ScheduleFilter(request.intent, paused, dict(request.labels))
        async with self._db.connection() as connection:
            page, last = await ledger_schedule.list_schedules(
                connection, current_tenant(), which, limit=limit, after=after
            )
        return pb.ListSchedulesResponse(
            schedules=[schedule_message(one) for one in page],
            next_page_token=token_of("schedules", last) if last else "",
        )

    async def DeleteSchedule(  # noqa: N802
        self, request: pb.DeleteScheduleRequest, context: Context
    ) -> pb.DeleteScheduleResponse:
        """Delete a schedule."""
        del context
        await ledger_schedule.delete(self._db, current_tenant(), _named(request.name))
        return pb.DeleteScheduleResponse()

    async def PauseSchedule(  # noqa: N802
        self, request: pb.PauseScheduleRequest, context: Context
    ) -> pb.PauseScheduleResponse:
        """Keep a schedule from firing."""
        del context
        wrong = Violations()
        read_name(wrong, "name", request.name)
        wrong.text("reason", request.reason, limit=1000)
        wrong.settle()
        paused = await ledger_schedule.pause(self._db, current_tenant(), request.name, request.reason)
        return pb.PauseScheduleResponse(schedule=schedule_message(paused))

    async def ResumeSchedule(  # noqa: N802
        self, request: pb.ResumeScheduleRequest, context: Context
    ) -> pb.ResumeScheduleResponse:
        """Let a schedule fire again."""
        del context
        resumed = await ledger_schedule.resume(self._db, current_tenant(), _named(request.name))
        return pb.ResumeScheduleResponse(schedule=schedule_message(resumed))

    async def TriggerSchedule(  # noqa: N802
        self, request: pb.TriggerScheduleRequest, context: Context
    ) -> pb.TriggerScheduleResponse:
        """Fire now."""
        del context
        wrong = Violations()
        read_name(wrong, "name", request.name)
        wrong.text("idempotency_key", request.idempotency_key)
        overlap = read_overlap(wrong, "overlap", request.overlap)
        wrong.settle()
        fire = await self._scheduling.trigger(
            current_tenant(), request.name, key=request.idempotency_key, overlap=overlap
        )
        return pb.TriggerScheduleResponse(fire=fire_message(fire))

    async def BackfillSchedule(  # noqa: N802
        self, request: pb.BackfillScheduleRequest, context: Context
    ) -> pb.BackfillScheduleResponse:
        """Fire for times of the past."""
        del context
        wrong = Violations()
        read_name(wrong, "name", request.name)
        bounds = []
        for field in ("start_time", "end_time"):
            if not request.HasField(field):
                wrong.add(field, "must be given")
            bounds.append(read_time(wrong, field, getattr(request, field)))
        start, end = bounds
        if start is not None and end is not None and start >= end:
            wrong.add("end_time", "must be later than start_time")
        wrong.settle()
        assert start is not None, "settle() raised otherwise"
        assert end is not None, "settle() raised otherwise"
        accepted = await self._scheduling.backfill(
            current_tenant(), request.name, start, end, dry_run=request.dry_run
        )
        return pb.BackfillScheduleResponse(
            fire_count=len(accepted.times),
            scheduled_times=[timestamp(time) for time in accepted.times[:_MOST_TIMES_TOLD]],
        )

    async def PreviewSchedule(  # noqa: N802
        self, request: pb.PreviewScheduleRequest, context: Context
    ) -> pb.PreviewScheduleResponse:
        """Show the next times."""
        del context
        wrong = Violations()
        subject = request.WhichOneof("subject")
        if subject is None:
            wrong.add("name", "must be given, or timing")
        elif subject == "name":
            read_name(wrong, "name", request.name)
        after: datetime | None = datetime.now(UTC)
        if request.HasField("after_time"):
            after = read_time(wrong, "after_time", request.after_time)
        if not 0 <= request.count <= _MOST_PREVIEWED:
            wrong.add("count", f"must be from 1 to {_MOST_PREVIEWED:,}, or 0 for 10")
        timing = read_timing(wrong, "timing", request.timing) if subject == "timing" else None
        wrong.settle()
        assert after is not None, "settle() raised otherwise"
        if timing is None:
            async with self._db.connection() as connection:
                timing = (await ledger_schedule.get(connection, current_tenant(), request.name)).timing
        told = await asyncio.to_thread(_previewed, timing, after, request.count or 10)
        return pb.PreviewScheduleResponse(scheduled_times=[timestamp(time) for time in told])

    async def _wanted(self, message: schedule_pb2.Schedule) -> Definition:
        tenant = current_tenant()
        wanted = read_schedule(message, tenant=tenant, starting=self._starting)
        if message.action.HasField("batch"):
            await self._batches.allow(message.action.batch, tenant)
        else:
            await self._intents.check(wanted.intent)
        return wanted


def _previewed(timing: Timing, after: datetime, count: int) -> list[datetime]:
    anchored = timing.anchored(after)

    def following() -> Any:
        time = next_time(anchored, after)
        while time is not None:
            yield time
            time = next_time(anchored, time)

    return list(islice(following(), count))


def _named(name: str) -> str:
    wrong = Violations()
    read_name(wrong, "name", name)
    wrong.settle()
    return name
