"""One thing done with many effects: those that match are read page by page, each is acted on by its own verb.

They come oldest first, and effects of one order one after another: what is sent again keeps its order.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast.dispatcher.filter import filter_of
from holdfast.kit.db import Database
from holdfast.kit.errors import FailedPrecondition, Fault, NotFound
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger import outbox_inspect, outbox_person
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.outbox_inspect import EffectFilter, EffectView
from holdfast.v1 import outbox_service_pb2 as pb

PAGE: Final = 100
AT_ONCE: Final = 4
"""Effects acted on at once: fewer than the dispatcher's connections, which are needed to send."""
DEFAULT_LIMIT: Final = 1000
MAX_LIMIT: Final = 100_000
LONGEST_REASON: Final = 1000

_OPEN_TO: Final = {
    pb.EFFECT_ACTION_RETRY: frozenset({EffectStatus.DEAD_LETTERED}),
    pb.EFFECT_ACTION_DISCARD: frozenset({EffectStatus.DEAD_LETTERED, EffectStatus.PENDING}),
}
"""The statuses to which an action has something to say."""
_MEANT: Final = frozenset({EffectStatus.DEAD_LETTERED})
_PASSED_OVER: Final = (FailedPrecondition, NotFound)
_PAGING: Final = frozenset({"page_size", "page_token"})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be done, with which effects, how many and how fast."""

    which: EffectFilter
    action: int
    apply: bool
    reason: str
    limit: int
    pause_s: float

    @property
    def page(self) -> int:
        """How many are read at once: with a rate no more than keep it busy for two seconds."""
        return min(PAGE, max(1, round(2 / self.pause_s))) if self.pause_s else PAGE


async def act(
    db: Database, tenant: str, request: pb.ActOnEffectsRequest, wake: Callable[[], None]
) -> AsyncGenerator[pb.ActOnEffectsResponse, None]:
    """Do it, and tell after each page how far it has come; `wake` after each. Raises `InvalidField`."""
    asked = _read(request)
    told = pb.ActOnEffectsResponse()
    after = 0
    told.finished = not asked.which.statuses  # of those asked for it has something to say to none
    if told.finished:
        yield told
    while not told.finished:
        size = min(asked.page, asked.limit - told.matched)
        async with db.connection() as connection:
            views = await outbox_inspect.page(connection, tenant, asked.which, after_seq=after, limit=size)
        del told.effect_ids[:], told.skipped_effects[:]
        told.effect_ids.extend(str(view.effect_id) for view in views)
        told.matched += len(views)
        if asked.apply and views:
            await _all(db, tenant, asked, views, told)
            wake()
        after = views[-1].seq if views else after
        told.finished = len(views) < size or told.matched >= asked.limit
        yield told


async def _all(
    db: Database, tenant: str, asked: _Asked, views: Sequence[EffectView], told: pb.ActOnEffectsResponse
) -> None:
    gate = asyncio.Semaphore(1 if asked.pause_s else AT_ONCE)

    async def in_order(lane: Sequence[EffectView]) -> None:
        for view in lane:
            async with gate:
                try:
                    await _one(db, tenant, asked, view)
                    told.done += 1
                except _PASSED_OVER as fault:
                    told.skipped += 1
                    told.skipped_effects.append(_skipped(view, fault))
                if asked.pause_s:
                    await asyncio.sleep(asked.pause_s)

    async with asyncio.TaskGroup() as group:
        for lane in _lanes(views):
            group.create_task(in_order(lane))


async def _one(db: Database, tenant: str, asked: _Asked, view: EffectView) -> None:
    if asked.action == pb.EFFECT_ACTION_RETRY:
        await outbox_person.retry(db, tenant, view.effect_id)
    else:
        await outbox_person.discard(db, tenant, view.effect_id, asked.reason)


def _lanes(views: Sequence[EffectView]) -> list[list[EffectView]]:
    """Put what is of one order together; what has none stands alone."""
    lanes: dict[tuple[str, str], list[EffectView]] = defaultdict(list)
    for view in views:
        alone = "" if view.ordering_key else str(view.effect_id)
        lanes[f"{view.destination}/{alone}", view.ordering_key].append(view)
    return list(lanes.values())


def _read(request: pb.ActOnEffectsRequest) -> _Asked:
    violations = Violations()
    which = filter_of(violations, request.which, "which.")
    if request.action not in _OPEN_TO:
        violations.add("action", "must be one of retry and discard")
    said = {field.name for field, _ in request.which.ListFields()}
    if not said - _PAGING:
        violations.add("which", "must say which effects")
    if said & _PAGING:
        violations.add("which", "must say nothing of pages")
    violations.text("reason", request.reason, longest=LONGEST_REASON, required=False)
    if not 0 <= request.limit <= MAX_LIMIT:
        violations.add("limit", f"must be between 0 and {MAX_LIMIT:,}")
    rate = request.max_per_second
    if not math.isfinite(rate) or rate < 0:
        violations.add("max_per_second", "must not be negative")
    violations.check()
    return _Asked(
        replace(which, statuses=(which.statuses or _MEANT) & _OPEN_TO[request.action]),
        request.action,
        request.apply,
        request.reason,
        request.limit or DEFAULT_LIMIT,
        1 / rate if rate else 0.0,
    )


def _skipped(view: EffectView, fault: Fault) -> pb.SkippedEffect:
    return pb.SkippedEffect(effect_id=str(view.effect_id), reason=fault.reason, message=str(fault))
