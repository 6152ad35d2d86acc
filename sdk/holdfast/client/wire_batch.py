"""Batches between plain values and the contract's messages."""

from collections.abc import Iterable, Iterator

from holdfast.client.batch import (
    Batch,
    BatchInput,
    BatchItem,
    BatchItemStatus,
    BatchProgress,
    BatchSpec,
    BatchStatus,
    ErrorGroup,
    FieldChange,
    Reviewed,
    Stratum,
)
from holdfast.client.run import Failure, Usage
from holdfast.client.wire_batch_review import policy_message, review_of, target_message
from holdfast.client.wire_invocation import source_of, target_of
from holdfast.client.wire_run import envelope
from holdfast.client.wire_value import (
    duration_of,
    plain_struct,
    plain_value,
    seconds_of,
    struct_of,
    time_of,
    value_of,
)
from holdfast.v1 import batch_pb2, batch_service_pb2, run_pb2

_MOST_ITEMS = 1000
_MOST_BYTES = 1024 * 1024


def spec_message(spec: BatchSpec) -> batch_pb2.BatchSpec:
    """Return a spec. Raises ValueError for what no spec can hold."""
    message = batch_pb2.BatchSpec(
        invocation=envelope(spec.invocation),
        display_name=spec.display_name,
        idempotency_key=spec.idempotency_key,
        skip_staging=spec.skip_staging,
        max_parallelism=spec.max_parallelism,
        in_order=spec.in_order,
        label_field=spec.label_field,
        confidence_field=spec.confidence_field,
        labels=spec.labels,
        start_when_uploaded=spec.start_when_uploaded,
    )
    if spec.source is not None:
        message.source.source = spec.source.source
        message.source.parameters.update(spec.source.parameters)
    if spec.review is not None:
        message.review.CopyFrom(policy_message(spec.review))
    if spec.apply is not None:
        message.apply.CopyFrom(target_message(spec.apply))
    message.tolerance.max_items, message.tolerance.max_share = spec.tolerated_items, spec.tolerated_share
    message.retry.max_attempts = spec.max_attempts
    if spec.initial_backoff:
        message.retry.initial_backoff.CopyFrom(duration_of(spec.initial_backoff))
    if spec.max_backoff:
        message.retry.max_backoff.CopyFrom(duration_of(spec.max_backoff))
    return message


def chunks(inputs: Iterable[BatchInput], offset: int) -> Iterator[batch_service_pb2.BatchChunk]:
    """Yield items in chunks that fit a message, from the item at `offset` on."""
    chunk, size, at = batch_service_pb2.BatchChunk(offset=offset), 0, offset
    for given in inputs:
        item = batch_pb2.BatchInput(key=given.key, payload=struct_of(given.payload))
        if given.current is not None:
            item.current.CopyFrom(value_of(given.current))
        bytes_of = item.ByteSize()
        if chunk.items and (len(chunk.items) >= _MOST_ITEMS or size + bytes_of > _MOST_BYTES):
            yield chunk
            chunk, size = batch_service_pb2.BatchChunk(offset=at), 0
        chunk.items.append(item)
        size += bytes_of
        at += 1
    if chunk.items:
        yield chunk


def batch_of(message: batch_pb2.Batch) -> Batch:
    """Return a batch."""
    return Batch(
        batch_id=message.batch_id,
        intent=message.spec.invocation.intent,
        status=BatchStatus(message.status),
        display_name=message.spec.display_name,
        resume_status=BatchStatus(message.resume_status),
        pause_reason=message.pause_reason,
        uploaded_items=message.uploaded_items,
        max_parallelism=message.spec.max_parallelism,
        labels=dict(message.spec.labels),
        schedule=message.schedule,
        create_time=time_of(message.create_time),
        start_time=time_of(message.start_time),
        end_time=time_of(message.end_time),
        source=source_of(message.spec.source) if message.spec.HasField("source") else None,
        source_error=message.source_error,
        apply=target_of(message.spec.apply) if message.spec.HasField("apply") else None,
    )


def progress_of(message: batch_pb2.BatchProgress) -> BatchProgress:
    """Return how far a batch is."""
    return BatchProgress(
        total=message.total,
        counts={BatchItemStatus(each.status): each.count for each in message.counts},
        items_per_second=message.items_per_second,
        tokens_per_second=message.tokens_per_second,
        eta_earliest=time_of(message.eta_earliest),
        eta_latest=time_of(message.eta_latest),
        usage=_usage(message.usage),
        cost_micros=message.cost_micros,
        latency=tuple(
            (seconds_of(each.upper_bound) if each.HasField("upper_bound") else None, each.count)
            for each in message.latency
        ),
        errors=tuple(
            ErrorGroup(each.reason, each.count, each.example_message, tuple(each.example_indexes))
            for each in message.errors
        ),
        snapshot_time=time_of(message.snapshot_time),
    )


def item_of(message: batch_pb2.BatchItem) -> BatchItem:
    """Return an item."""
    why = message.failure
    given = message.input
    return BatchItem(
        index=message.index,
        key=given.key,
        status=BatchItemStatus(message.status),
        payload=plain_struct(given.payload),
        current=plain_value(given.current) if given.HasField("current") else None,
        run_id=message.run_id,
        attempts=message.attempts,
        output=plain_value(message.output) if message.HasField("output") else None,
        changes=tuple(
            FieldChange(each.path, plain_value(each.before), plain_value(each.after))
            for each in message.changes
        ),
        label=message.label,
        confidence=message.confidence if message.HasField("confidence") else None,
        usage=_usage(message.usage),
        cost_micros=message.cost_micros,
        failure=(
            Failure(why.reason, why.message, why.step, why.attempts) if message.HasField("failure") else None
        ),
        update_time=time_of(message.update_time),
        review=review_of(message.review) if message.HasField("review") else None,
        effect_id=message.effect_id,
        follow_up_run_id=message.follow_up_run_id,
        undo_effect_id=message.undo_effect_id,
        undo_run_id=message.undo_run_id,
    )


def stratum_of(message: batch_service_pb2.Stratum) -> Stratum:
    """Return a stratum of a sample."""
    return Stratum(
        label=message.label,
        confidence_band=message.confidence_band,
        cost_band=message.cost_band,
        population=message.population,
        items=tuple(item_of(item) for item in message.items),
    )


def reviewed_of(message: batch_service_pb2.ReviewItemsResponse) -> Reviewed:
    """Return what came of a review."""
    return Reviewed(progress_of(message.progress), message.judged, message.accepted, message.policy_met)


def filter_message(
    statuses: Iterable[BatchItemStatus] = (),
    label: str = "",
    failure_reason: str = "",
    keys: Iterable[str] = (),
    *,
    max_confidence: float = 0.0,
    changed: bool = False,
) -> batch_service_pb2.BatchItemFilter:
    """Return which items are meant."""
    return batch_service_pb2.BatchItemFilter(
        statuses=[batch_pb2.BatchItemStatus.ValueType(status) for status in statuses],
        label=label,
        failure_reason=failure_reason,
        keys=keys,
        max_confidence=max_confidence,
        changed=changed,
    )


def _usage(message: run_pb2.Usage) -> Usage:
    return Usage(
        elapsed_ms=message.elapsed_ms,
        steps=message.steps,
        tools=message.tools,
        tokens=message.tokens,
        context=message.context,
    )
