"""What a batch is to do, checked whole before anything is stored; the same door for people and schedules."""

import hashlib
import json
from typing import Final

from holdfast.invoker.batch_policy import check_own, check_review, read_target
from holdfast.invoker.envelope import Violations, go_on_in_trace, read_envelope
from holdfast.invoker.item_source import ItemSources
from holdfast.kit.ids import new_id
from holdfast.kit.rpc.payload import MAX_BYTES, PayloadError, plain_struct, plain_value
from holdfast.ledger.batch import NewBatch, NewItem
from holdfast.ledger.batch_target import Target
from holdfast.v1 import batch_pb2, run_pb2

MOST_IN_FLIGHT: Final = 10_000
DEFAULT_IN_FLIGHT: Final = 100
MOST_ATTEMPTS: Final = 100
DEFAULT_SHARE: Final = 0.1
_DAY_MS: Final = 24 * 3600 * 1000


def read_spec(
    spec: batch_pb2.BatchSpec,
    *,
    tenant: str,
    sources: ItemSources,
    schedule: str = "",
    wrong: Violations | None = None,
) -> NewBatch:
    """Check a spec and return the batch it makes. Raises InvalidField naming every malformed field.

    Without an idempotency key the batch's id is its key. Its runs are linked to the trace that this is called
    in, unless the spec names another. `wrong` may hold what is wrong around it.
    """
    wrong = wrong or Violations("spec.")
    _check(spec, wrong)
    if spec.HasField("source"):
        sources.check(wrong, "source", spec.source, tenant)
    target = Target(b"")
    if spec.HasField("apply"):
        target = read_target(wrong, "apply", spec.apply, tenant=tenant)
    envelope = read_envelope(
        spec.invocation,
        tenant=tenant,
        shape=run_pb2.SHAPE_BATCH,
        max_attempts=1,
        wrong=wrong.within("invocation."),
    )
    batch_id = new_id()
    tolerance = spec.tolerance
    unlimited = not tolerance.max_items and not tolerance.max_share
    fingerprint = hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()  # in whatever trace
    go_on_in_trace(spec.invocation)
    return NewBatch(
        batch_id=batch_id,
        tenant=tenant,
        intent=envelope.intent,
        idempotency_key=spec.idempotency_key or str(batch_id),
        fingerprint=fingerprint,
        spec=spec.SerializeToString(deterministic=True),
        labels=json.dumps(dict(spec.labels), ensure_ascii=False),
        schedule=schedule,
        skip_staging=spec.skip_staging,
        in_order=spec.in_order,
        start_when_uploaded=spec.start_when_uploaded,
        max_parallelism=spec.max_parallelism or DEFAULT_IN_FLIGHT,
        priority=envelope.priority,
        max_attempts=spec.retry.max_attempts or 1,
        initial_backoff_ms=_ms(spec.retry.initial_backoff.ToMilliseconds(), 100),
        max_backoff_ms=_ms(spec.retry.max_backoff.ToMilliseconds(), 30_000),
        tolerated_items=tolerance.max_items,
        tolerated_share=DEFAULT_SHARE if unlimited else tolerance.max_share,
        label_field=spec.label_field,
        confidence_field=spec.confidence_field,
        review=spec.review.SerializeToString(deterministic=True) if spec.HasField("review") else None,
        min_accepted_share=spec.review.min_accepted_share,
        min_judged=spec.review.min_judged,
        reviewer_intent=spec.review.reviewer_intent,
        apply_when_met=spec.review.apply_when_met,
        apply_target=target.stored or None,
        apply_destination=target.destination,
        undo_destination=target.undo_destination,
        sourced=spec.HasField("source"),
    )


def check_tolerance(wrong: Violations, field: str, tolerance: batch_pb2.FailureTolerance) -> None:
    """Check how many items may fail."""
    wrong.not_negative(f"{field}.max_items", tolerance.max_items)
    if not 0 <= tolerance.max_share <= 1:
        wrong.add(f"{field}.max_share", "must be from 0 to 1")


def check_parallelism(wrong: Violations, field: str, value: int, *, least: int) -> None:
    """Check how many items may be in flight."""
    if not least <= value <= MOST_IN_FLIGHT:
        wrong.add(field, f"must be from {least} to {MOST_IN_FLIGHT:,}")


def read_items(chunk_items: list[batch_pb2.BatchInput], *, room: int = MAX_BYTES) -> list[NewItem]:
    """Check the items of a chunk; `room` is how many bytes a payload may have. Raises InvalidField."""
    wrong = Violations("chunk.")
    items: list[NewItem] = []
    for place, item in enumerate(chunk_items):
        field = f"items[{place}]"
        wrong.text(f"{field}.key", item.key)
        if item.payload.ByteSize() > room:
            wrong.add(f"{field}.payload", f"must be at most {room:,} bytes beside the batch's own payload")
        if item.current.ByteSize() > MAX_BYTES:
            wrong.add(f"{field}.current", f"must be at most {MAX_BYTES:,} bytes")
        try:
            payload = plain_struct(item.payload, f"{field}.payload")
            current = plain_value(item.current, f"{field}.current") if item.HasField("current") else None
        except PayloadError as error:
            wrong.add(error.field, str(error))
            continue
        items.append(NewItem(item.key, _json(payload), _json(current) if item.HasField("current") else None))
    wrong.settle()
    return items


def room_of(spec: batch_pb2.BatchSpec) -> int:
    """Return how many bytes an item's payload may have beside the spec's own."""
    return max(0, MAX_BYTES - spec.invocation.payload.ByteSize())


def _check(spec: batch_pb2.BatchSpec, wrong: Violations) -> None:
    for field, value in (
        ("display_name", spec.display_name),
        ("idempotency_key", spec.idempotency_key),
        ("label_field", spec.label_field),
        ("confidence_field", spec.confidence_field),
    ):
        wrong.text(field, value)
    wrong.labels("labels", spec.labels)
    check_parallelism(wrong, "max_parallelism", spec.max_parallelism, least=0)
    check_tolerance(wrong, "tolerance", spec.tolerance)
    if not 0 <= spec.retry.max_attempts <= MOST_ATTEMPTS:
        wrong.add("retry.max_attempts", f"must be from 1 to {MOST_ATTEMPTS}, or 0 for 1")
    for name in ("initial_backoff", "max_backoff"):
        milliseconds = getattr(spec.retry, name).seconds * 1000
        if not 0 <= milliseconds <= _DAY_MS:
            wrong.add(f"retry.{name}", "must be from 0 s to 1 day")
    check_own(wrong, "invocation", spec.invocation)
    check_review(wrong, "review", spec.review)
    if spec.skip_staging:
        for name, given in (("review", spec.HasField("review")), ("apply", spec.HasField("apply"))):
            if given:
                wrong.add(name, "must be empty with skip_staging: nothing is staged")
    if spec.review.apply_when_met and not spec.HasField("apply"):
        wrong.add("review.apply_when_met", "needs a target in apply")


def _ms(given: int, default: int) -> int:
    return given or default


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
