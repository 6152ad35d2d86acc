"""Batches between the contract's messages and the ledger's values."""

import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from holdfast.invoker.envelope import Violations
from holdfast.kit.rpc.payload import value_of
from holdfast.kit.rpc.run import failure_message, timestamp
from holdfast.ledger.batch_view import BatchProgress, BatchView, ItemFilter, ItemView, Said
from holdfast.ledger.domain.batch import BatchStatus, ItemStatus
from holdfast.ledger.domain.batch_pace import SLOT_S, pace_of
from holdfast.v1 import batch_pb2, batch_service_pb2, run_pb2

_BUCKETS: Final = 20
_MOST_KEYS: Final = 1000
_MOST_CHANGES: Final = 100
_ABSENT: Final = object()
_LEFT: Final = {
    BatchStatus.RUNNING: (ItemStatus.PENDING, ItemStatus.RUNNING),
    BatchStatus.APPLYING: (ItemStatus.ACCEPTED, ItemStatus.APPLYING),
    BatchStatus.ROLLING_BACK: (ItemStatus.APPLYING, ItemStatus.APPLIED),
}
"""What a phase has still to do."""


def batch_message(view: BatchView) -> batch_pb2.Batch:
    """Return a batch, its spec as it is now."""
    spec = batch_pb2.BatchSpec.FromString(view.spec)
    spec.max_parallelism = view.max_parallelism
    spec.invocation.priority = view.priority
    spec.tolerance.max_items, spec.tolerance.max_share = view.tolerated_items, view.tolerated_share
    if view.review is not None:
        spec.review.ParseFromString(view.review)
    if view.apply_target is not None:
        spec.apply.ParseFromString(view.apply_target)
    return batch_pb2.Batch(
        batch_id=str(view.batch_id),
        spec=spec,
        status=batch_pb2.BatchStatus.ValueType(view.status),
        resume_status=batch_pb2.BatchStatus.ValueType(view.resume_status or 0),
        pause_reason=view.reason if view.status is BatchStatus.PAUSED else "",
        source_error=view.reason if view.status is BatchStatus.UPLOADING else "",
        uploaded_items=view.uploaded,
        schedule=view.schedule,
        create_time=timestamp(view.create_time),
        start_time=None if view.start_time is None else timestamp(view.start_time),
        end_time=None if view.end_time is None else timestamp(view.end_time),
    )


def cost_micros(tokens: int, token_price: float) -> int:
    """Return what tokens cost in millionths; `token_price` is that of a million of them."""
    return round(tokens * token_price)


def tokens_costing(micros: int, token_price: float) -> int:
    """Return how many tokens cost at least as much, by `cost_micros`."""
    tokens = max(0, math.floor((micros - 0.5) / token_price))
    while cost_micros(tokens, token_price) < micros:  # it rounds halves to even: a step at most is left to go
        tokens += 1
    return tokens


def progress_message(
    batch: BatchView, progress: BatchProgress, token_price: float = 0.0
) -> batch_pb2.BatchProgress:
    """Return how far a batch is, and what it cost at a price of a million tokens."""
    begun = batch.start_time if batch.phase_time is None else batch.phase_time
    since = None if begun is None else begun.timestamp()
    pace = pace_of(
        [slot for slot in progress.pace if since is None or slot.at >= since // SLOT_S],
        now=progress.now.timestamp(),
        since=since,
        left=sum(progress.counts.get(status, 0) for status in _LEFT.get(batch.status, ())),
    )
    usage = progress.usage
    return batch_pb2.BatchProgress(
        total=progress.total,
        counts=[
            batch_pb2.BatchItemCount(status=batch_pb2.BatchItemStatus.ValueType(status), count=count)
            for status, count in progress.counts.items()
        ],
        items_per_second=pace.items_per_second,
        tokens_per_second=pace.tokens_per_second,
        eta_earliest=_in(progress.now, pace.shortest),
        eta_latest=_in(progress.now, pace.longest),
        usage=run_pb2.Usage(steps=usage.steps, tools=usage.tools, tokens=usage.tokens, context=usage.context),
        cost_micros=cost_micros(usage.tokens, token_price),
        latency=_latency(progress.latency),
        errors=[
            batch_pb2.ErrorGroup(
                reason=group.reason,
                count=group.count,
                example_message=group.message,
                example_indexes=group.indexes,
            )
            for group in progress.errors
        ],
        snapshot_time=timestamp(progress.now),
    )


def item_message(batch_id: str, view: ItemView, token_price: float = 0.0) -> batch_pb2.BatchItem:
    """Return an item with its output, where that differs from what is there, and what it cost."""
    item = batch_pb2.BatchItem(
        batch_id=batch_id,
        index=view.index,
        status=batch_pb2.BatchItemStatus.ValueType(view.status),
        run_id="" if view.run_id is None else str(view.run_id),
        attempts=view.attempts,
        label=view.label,
        confidence=view.confidence,
        usage=run_pb2.Usage(
            steps=view.usage.steps,
            tools=view.usage.tools,
            tokens=view.usage.tokens,
            context=view.usage.context,
        ),
        cost_micros=cost_micros(view.usage.tokens, token_price),
        failure=None if view.failure is None else failure_message(view.failure),
        update_time=timestamp(view.update_time),
        review=None if view.review is None else _review(view.index, view.review),
        effect_id="" if view.effect_id is None else str(view.effect_id),
        follow_up_run_id="" if view.follow_up_run_id is None else str(view.follow_up_run_id),
        undo_effect_id="" if view.undo_effect_id is None else str(view.undo_effect_id),
        undo_run_id="" if view.undo_run_id is None else str(view.undo_run_id),
    )
    item.input.key = view.key
    item.input.payload.CopyFrom(value_of(json.loads(view.payload)).struct_value)
    if view.current is not None:
        item.input.current.CopyFrom(value_of(json.loads(view.current)))
    if view.output is not None:
        item.output.CopyFrom(value_of(json.loads(view.output)))
        if view.current is not None:
            found = changes(json.loads(view.current), json.loads(final_output(view) or view.output))
            item.changes.extend(change for change, _ in zip(found, range(_MOST_CHANGES), strict=False))
    return item


def final_output(view: ItemView) -> bytes | None:
    """Return an item's output as it would be applied: as it was edited, if it was."""
    edited = None if view.review is None else view.review.edited
    return view.output if edited is None else edited


def _review(index: int, said: Said) -> batch_pb2.ItemReview:
    return batch_pb2.ItemReview(
        index=index,
        verdict=batch_pb2.REVIEW_VERDICT_ACCEPT if said.accepted else batch_pb2.REVIEW_VERDICT_REJECT,
        reason=said.reason,
        edited_output=None if said.edited is None else value_of(json.loads(said.edited)),
        reviewer=said.reviewer,
        review_time=timestamp(said.time),
    )


def changes(before: Any, after: Any, path: str = "") -> Iterator[batch_pb2.FieldChange]:
    """Yield where two JSON values differ, by path; a list as a whole part by part."""
    if isinstance(before, dict) and isinstance(after, dict):
        names: list[Any] = list(before | after)
        parts = [(name, before.get(name, _ABSENT), after.get(name, _ABSENT)) for name in names]
    elif isinstance(before, list) and isinstance(after, list):
        longest = max(len(before), len(after))
        parts = [(at, _at(before, at), _at(after, at)) for at in range(longest)]
    else:
        if before != after or isinstance(before, bool) is not isinstance(after, bool):
            yield batch_pb2.FieldChange(
                path=path,
                before=None if before is _ABSENT else value_of(before),
                after=None if after is _ABSENT else value_of(after),
            )
        return
    for name, old, new in parts:
        yield from changes(old, new, f"{path}.{name}" if path else str(name))


def read_filter(wrong: Violations, which: batch_service_pb2.BatchItemFilter) -> ItemFilter:
    """Check which items are meant."""
    for at, status in enumerate(which.statuses):
        if int(status) not in ItemStatus.__members__.values():
            wrong.add(f"filter.statuses[{at}]", "is not a status of an item")
    if len(which.keys) > _MOST_KEYS:
        wrong.add("filter.keys", f"must be at most {_MOST_KEYS:,}")
    for field, value in (("label", which.label), ("failure_reason", which.failure_reason)):
        wrong.text(f"filter.{field}", value)
    if not 0 <= which.max_confidence <= 1:
        wrong.add("filter.max_confidence", "must be from 0 to 1")
    wrong.settle()
    return ItemFilter(
        statuses=tuple(ItemStatus(status) for status in which.statuses),
        label=which.label,
        failure_reason=which.failure_reason,
        keys=tuple(which.keys),
        max_confidence=which.max_confidence,
        changed=which.changed,
    )


def _at(values: list[Any], at: int) -> Any:
    return values[at] if at < len(values) else _ABSENT


def _latency(buckets: dict[int, int]) -> list[batch_pb2.LatencyBucket]:
    shown = []
    for bucket in sorted(buckets):
        bound = Duration()
        bound.FromMilliseconds(10 * 2**bucket)
        last = bucket >= _BUCKETS
        shown.append(batch_pb2.LatencyBucket(upper_bound=None if last else bound, count=buckets[bucket]))
    return shown


def _in(now: datetime, seconds: float | None) -> Any:
    return None if seconds is None else timestamp(now + timedelta(seconds=min(seconds, 1e8)))
