"""Reviews, targets and samples of batches between plain values and the contract's messages."""

from collections.abc import Iterable

from holdfast.client.batch import ApplyEffect, ApplyTarget, ItemReview, ReviewPolicy
from holdfast.client.wire_run import envelope
from holdfast.client.wire_value import plain_value, time_of, value_of
from holdfast.v1 import batch_pb2, batch_service_pb2

ACCEPT = batch_pb2.REVIEW_VERDICT_ACCEPT
REJECT = batch_pb2.REVIEW_VERDICT_REJECT


def policy_message(policy: ReviewPolicy) -> batch_pb2.ReviewPolicy:
    """Return a policy."""
    return batch_pb2.ReviewPolicy(
        min_accepted_share=policy.min_accepted_share,
        min_judged=policy.min_judged,
        reviewer_intent=policy.reviewer_intent,
        apply_when_met=policy.apply_when_met,
    )


def target_message(target: ApplyTarget) -> batch_pb2.ApplyTarget:
    """Return a target. Raises ValueError for what no envelope can hold."""
    if isinstance(target, ApplyEffect):
        effect = batch_pb2.ApplyEffect(
            destination=target.destination, undo_destination=target.undo_destination
        )
        return batch_pb2.ApplyTarget(effect=effect)
    undo = None if target.undo is None else envelope(target.undo)
    return batch_pb2.ApplyTarget(follow_up=envelope(target.run), undo=undo)


def verdict(*, accepted: bool | None) -> batch_pb2.ReviewVerdict.ValueType:
    """Return a verdict; None is none."""
    if accepted is None:
        return batch_pb2.REVIEW_VERDICT_UNSPECIFIED
    return ACCEPT if accepted else REJECT


def review_message(review: ItemReview) -> batch_pb2.ItemReview:
    """Return what is said about an item."""
    return batch_pb2.ItemReview(
        index=review.index,
        verdict=verdict(accepted=review.accepted),
        reason=review.reason,
        edited_output=None if review.edited is None else value_of(review.edited),
    )


def review_of(message: batch_pb2.ItemReview) -> ItemReview:
    """Return what was said about an item."""
    return ItemReview(
        index=message.index,
        accepted=message.verdict == ACCEPT,
        reason=message.reason,
        edited=plain_value(message.edited_output) if message.HasField("edited_output") else None,
        reviewer=message.reviewer,
        review_time=time_of(message.review_time),
    )


def strata_message(
    *,
    by_label: bool,
    confidence_bounds: Iterable[float],
    cost_bounds: Iterable[float],
    token_bounds: Iterable[int],
    equal: bool,
) -> batch_service_pb2.Stratification:
    """Return how a sample is spread."""
    return batch_service_pb2.Stratification(
        by_label=by_label,
        confidence_bounds=confidence_bounds,
        cost_bounds_micros=[round(cost * 1_000_000) for cost in cost_bounds],
        token_bounds=token_bounds,
        equal=equal,
    )
