"""What was to be started, read back from the contract's messages."""

from holdfast.client.batch import (
    ApplyEffect,
    ApplyTarget,
    BatchSource,
    BatchSpec,
    FollowUp,
    ReviewPolicy,
)
from holdfast.client.number import Shape
from holdfast.client.run import Invocation
from holdfast.client.wire_run import budget_of
from holdfast.client.wire_value import plain_struct, seconds_of
from holdfast.v1 import batch_pb2, invoker_service_pb2


def invocation_of(message: invoker_service_pb2.InvokeRequest) -> Invocation:
    """Return an envelope."""
    return Invocation(
        intent=message.intent,
        payload=plain_struct(message.payload) if message.HasField("payload") else None,
        budget=budget_of(message.budget) if message.HasField("budget") else None,
        tenant=message.caller.tenant,
        user=message.caller.user,
        correlation_id=message.correlation_id,
        shape=Shape(message.shape),
        ordering_key=message.ordering_key,
        priority=message.priority,
        session_id=message.session_id,
        labels=dict(message.labels),
        agent_version=message.agent_version,
        traceparent=message.traceparent,
        handoff=budget_of(message.handoff.budget) if message.HasField("handoff") else None,
    )


def spec_of(message: batch_pb2.BatchSpec) -> BatchSpec:
    """Return what a batch is to do."""
    return BatchSpec(
        invocation=invocation_of(message.invocation),
        display_name=message.display_name,
        idempotency_key=message.idempotency_key,
        skip_staging=message.skip_staging,
        max_parallelism=message.max_parallelism,
        in_order=message.in_order,
        max_attempts=message.retry.max_attempts,
        initial_backoff=seconds_of(message.retry.initial_backoff),
        max_backoff=seconds_of(message.retry.max_backoff),
        tolerated_items=message.tolerance.max_items,
        tolerated_share=message.tolerance.max_share,
        label_field=message.label_field,
        confidence_field=message.confidence_field,
        labels=dict(message.labels),
        start_when_uploaded=message.start_when_uploaded,
        review=_policy_of(message.review) if message.HasField("review") else None,
        apply=target_of(message.apply) if message.HasField("apply") else None,
        source=source_of(message.source) if message.HasField("source") else None,
    )


def source_of(message: batch_pb2.BatchSource) -> BatchSource:
    """Return where items come from."""
    return BatchSource(message.source, dict(message.parameters))


def target_of(message: batch_pb2.ApplyTarget) -> ApplyTarget:
    """Return what becomes of accepted outputs."""
    if message.HasField("follow_up"):
        undo = invocation_of(message.undo) if message.HasField("undo") else None
        return FollowUp(invocation_of(message.follow_up), undo)
    return ApplyEffect(message.effect.destination, message.effect.undo_destination)


def _policy_of(message: batch_pb2.ReviewPolicy) -> ReviewPolicy:
    return ReviewPolicy(
        message.min_accepted_share,
        message.min_judged,
        message.reviewer_intent,
        apply_when_met=message.apply_when_met,
    )
