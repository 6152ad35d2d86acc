"""One thing done with many runs: those that match are read page by page, each is acted on by its own verb."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from holdfast.invoker.deciding import MAX_REASON_BYTES
from holdfast.invoker.envelope import Violations
from holdfast.invoker.hints import Hints
from holdfast.invoker.listing import list_filters
from holdfast.invoker.stopping import Stopping
from holdfast.kit.db import Database
from holdfast.kit.errors import FailedPrecondition, Fault, NotFound, ResourceExhausted
from holdfast.ledger import retry
from holdfast.ledger.domain.status import ENDED, RETRYABLE, RunStatus
from holdfast.ledger.run_list import RunFilter, list_runs
from holdfast.ledger.values import RunView
from holdfast.v1 import invoker_service_pb2 as pb

PAGE: Final = 100
AT_ONCE: Final = 8
"""Runs acted on at once: more would only queue for their tenant's lock."""
DEFAULT_LIMIT: Final = 1000
MAX_LIMIT: Final = 100_000

_LIVING: Final = tuple(status for status in RunStatus if status not in ENDED)
_OPEN_TO: Final = {
    pb.RUN_ACTION_CANCEL: _LIVING,
    pb.RUN_ACTION_RETRY: tuple(RETRYABLE),
    pb.RUN_ACTION_PAUSE: _LIVING,
    pb.RUN_ACTION_RESUME: _LIVING,
}
"""The statuses to which an action has something to say."""
_PASSED_OVER: Final = (FailedPrecondition, NotFound, ResourceExhausted)
_PAGING: Final = frozenset({"page_size", "page_token"})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be done, with which runs, how many and how fast."""

    which: RunFilter
    action: int
    apply: bool
    reason: str
    limit: int
    pause: float

    @property
    def page(self) -> int:
        """How many are read at once: with a rate no more than keep it busy for two seconds."""
        return min(PAGE, max(1, round(2 / self.pause))) if self.pause else PAGE


class Acting:
    """Acts on runs by filter."""

    def __init__(self, db: Database, stopping: Stopping, hints: Hints) -> None:
        self._db = db
        self._stopping = stopping
        self._hints = hints

    async def act(
        self, tenant: str, request: pb.ActOnRunsRequest
    ) -> AsyncGenerator[pb.ActOnRunsResponse, None]:
        """Do it, and tell after each page how far it has come. Raises `InvalidField`."""
        asked = _read(request)
        told = pb.ActOnRunsResponse()
        after = None
        told.finished = not asked.which.statuses  # of those asked for it has something to say to none
        if told.finished:
            yield told
        while not told.finished:
            page = min(asked.page, asked.limit - told.matched)
            views, after = await list_runs(self._db, tenant, asked.which, limit=page, after=after)
            if asked.action == pb.RUN_ACTION_RESUME:
                views = [view for view in views if view.paused is not None]
            del told.run_ids[:], told.skipped_runs[:]
            told.run_ids.extend(str(view.run_id) for view in views)
            told.matched += len(views)
            if asked.apply:
                await self._all(tenant, asked, views, told)
            told.finished = after is None or told.matched >= asked.limit
            yield told

    async def _all(
        self, tenant: str, asked: _Asked, views: list[RunView], told: pb.ActOnRunsResponse
    ) -> None:
        gate = asyncio.Semaphore(1 if asked.pause else AT_ONCE)
        do = self._verb(tenant, asked)

        async def one(view: RunView) -> None:
            async with gate:
                try:
                    await do(view.run_id)
                    told.done += 1
                except _PASSED_OVER as fault:
                    told.skipped += 1
                    told.skipped_runs.append(_skipped(view, fault))
                if asked.pause:
                    await asyncio.sleep(asked.pause)

        async with asyncio.TaskGroup() as group:
            for view in views:
                group.create_task(one(view))

    def _verb(self, tenant: str, asked: _Asked) -> Callable[[UUID], Awaitable[None]]:
        async def again(run_id: UUID) -> None:
            self._hints.moved(await retry.retry(self._db, tenant, run_id))

        verbs: dict[int, Callable[[UUID], Awaitable[None]]] = {
            pb.RUN_ACTION_CANCEL: lambda run_id: self._stopping.cancel(tenant, run_id, asked.reason),
            pb.RUN_ACTION_RETRY: again,
            pb.RUN_ACTION_PAUSE: lambda run_id: self._stopping.pause(tenant, run_id, asked.reason),
            pb.RUN_ACTION_RESUME: lambda run_id: self._stopping.resume(tenant, run_id),
        }
        return verbs[asked.action]


def _read(request: pb.ActOnRunsRequest) -> _Asked:
    which, _, _ = list_filters(request.which)
    wrong = Violations()
    if request.action not in _OPEN_TO:
        wrong.add("action", "must be one of cancel, retry, pause and resume")
    said = {field.name for field, _ in request.which.ListFields()}
    if not said - _PAGING:
        wrong.add("which", "must say which runs")
    if said & _PAGING:
        wrong.add("which", "must say nothing of pages")
    wrong.text("reason", request.reason, limit=MAX_REASON_BYTES)
    if not 0 <= request.limit <= MAX_LIMIT:
        wrong.add("limit", f"must be between 0 and {MAX_LIMIT:,}")
    rate = request.max_per_second
    if not math.isfinite(rate) or rate < 0:
        wrong.add("max_per_second", "must not be negative")
    wrong.settle()
    statuses = which.statuses or _OPEN_TO[request.action]
    return _Asked(
        replace(which, statuses=tuple(each for each in statuses if each in _OPEN_TO[request.action])),
        request.action,
        request.apply,
        request.reason,
        request.limit or DEFAULT_LIMIT,
        1 / rate if rate else 0.0,
    )


def _skipped(view: RunView, fault: Fault) -> pb.SkippedRun:
    return pb.SkippedRun(run_id=str(view.run_id), reason=fault.reason, message=str(fault))
