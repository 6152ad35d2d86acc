"""What a batch's review policy and target say, checked where they come in: with the spec, or later."""

import json
from typing import Final

from holdfast.invoker.envelope import Violations, read_envelope
from holdfast.kit.auth.identity import current_identity
from holdfast.kit.auth.role import APPROVE
from holdfast.kit.errors import PermissionDenied
from holdfast.kit.rpc.payload import value_of
from holdfast.ledger.batch_deed import APPLIES, JUDGES, UNDOES, Given
from holdfast.ledger.batch_target import Target
from holdfast.ledger.batch_update import ReviewRule
from holdfast.ledger.values import Invocation
from holdfast.v1 import batch_pb2, invoker_service_pb2, run_pb2

MOST_JUDGED: Final = 1000
MOST_PER_SECOND: Final = 1e6
_OWN: Final = ("run_id", "idempotency_key", "session_id", "ordering_key")


def check_review(wrong: Violations, field: str, policy: batch_pb2.ReviewPolicy) -> None:
    """Check when staged outputs are accepted automatically."""
    if not 0 <= policy.min_accepted_share <= 1:
        wrong.add(f"{field}.min_accepted_share", "must be from 0 to 1")
    if not 0 <= policy.min_judged <= MOST_JUDGED:
        wrong.add(f"{field}.min_judged", f"must be from 0 to {MOST_JUDGED:,}")
    if policy.reviewer_intent:
        wrong.intent(f"{field}.reviewer_intent", policy.reviewer_intent)
    if policy.apply_when_met and not policy.min_accepted_share:
        wrong.add(f"{field}.apply_when_met", "needs min_accepted_share, without which nothing is met")


def allow_policy(policy: batch_pb2.ReviewPolicy) -> None:
    """Let only those who may judge items say when they are accepted unseen. Raises `PermissionDenied`."""
    identity = current_identity()
    if policy.min_accepted_share and identity is not None and APPROVE not in identity.held:
        raise PermissionDenied(
            f"A policy that accepts outputs takes the role {APPROVE}, as a review does.",
            facts={"roles": APPROVE},
        )


def review_rule(policy: batch_pb2.ReviewPolicy) -> ReviewRule:
    """Return a policy as the ledger keeps it."""
    return ReviewRule(
        policy.SerializeToString(deterministic=True),
        policy.min_accepted_share,
        policy.min_judged,
        policy.reviewer_intent,
        policy.apply_when_met,
    )


def check_own(wrong: Violations, field: str, own: invoker_service_pb2.InvokeRequest) -> None:
    """Check that an envelope for all items names nothing that each item's run has for itself."""
    for name in _OWN:
        if getattr(own, name):
            wrong.add(f"{field}.{name}", "must be empty: each item's run has its own")
    if own.HasField("parent") or own.HasField("wait") or own.HasField("not_before"):
        wrong.add(field, "must not have parent, wait or not_before")


def check_rate(wrong: Violations, field: str, per_second: float) -> None:
    """Check how many are applied a second."""
    if not 0 <= per_second <= MOST_PER_SECOND:
        wrong.add(field, f"must be from 0 to {MOST_PER_SECOND:,.0f}")


def read_target(wrong: Violations, field: str, target: batch_pb2.ApplyTarget, *, tenant: str) -> Target:
    """Check a target and return it as the ledger keeps it."""
    kind = target.WhichOneof("target")
    if kind is None:
        wrong.add(field, "must be an effect or a follow_up")
    elif kind == "effect":
        effect = target.effect
        if not effect.destination:
            wrong.add(f"{field}.effect.destination", "must be given")
        for name in ("destination", "undo_destination"):
            wrong.text(f"{field}.effect.{name}", getattr(effect, name))
    else:
        _check_run(wrong, f"{field}.follow_up", target.follow_up, tenant)
    if target.HasField("undo"):
        if kind == "effect":
            wrong.add(f"{field}.undo", "must be with a follow_up: effects have an undo_destination")
        _check_run(wrong, f"{field}.undo", target.undo, tenant)
    return Target(
        target.SerializeToString(deterministic=True),
        target.effect.destination,
        target.effect.undo_destination,
    )


def target_intents(target: batch_pb2.ApplyTarget) -> tuple[str, ...]:
    """Return the intents for which a target starts runs."""
    return tuple(filter(None, (target.follow_up.intent, target.undo.intent)))


def follow_up(given: Given, *, max_attempts: int) -> Invocation:
    """Return the run that applies an item. Raises the Fault that refuses it."""
    request = batch_pb2.ApplyTarget.FromString(given.target).follow_up
    request.payload.fields["output"].CopyFrom(value_of(json.loads(given.output)))
    return _of(given, APPLIES, request, max_attempts)


def undoes(target: bytes) -> bool:
    """Tell whether a target says what undoes its follow-up runs."""
    return batch_pb2.ApplyTarget.FromString(target).HasField("undo")


def undoing(given: Given, *, max_attempts: int) -> Invocation:
    """Return the run that undoes what the follow-up run of an item did. Raises the Fault that refuses it."""
    request = batch_pb2.ApplyTarget.FromString(given.target).undo
    told = {
        "key": given.key,
        "output": json.loads(given.output),
        "follow_up_run_id": str(given.follow_up_run_id),
    }
    for name, value in (("current", given.current), ("follow_up_result", given.result)):
        if value is not None:
            told[name] = json.loads(value)
    request.payload.MergeFrom(value_of(told).struct_value)
    return _of(given, UNDOES, request, max_attempts)


def judging(given: Given, *, max_attempts: int) -> Invocation:
    """Return the run that judges an item. Raises the Fault that refuses it."""
    item = json.loads(given.body()) | {"label": given.label, "confidence": given.confidence}
    spec = _spec(given)
    request = invoker_service_pb2.InvokeRequest(
        intent=batch_pb2.ReviewPolicy.FromString(given.review).reviewer_intent,
        caller=spec.caller,
        labels=spec.labels,
    )
    request.payload.CopyFrom(value_of(item).struct_value)
    return _of(given, JUDGES, request, max_attempts)


def _spec(given: Given) -> invoker_service_pb2.InvokeRequest:
    return batch_pb2.BatchSpec.FromString(given.spec).invocation


def _of(
    given: Given, purpose: int, request: invoker_service_pb2.InvokeRequest, max_attempts: int
) -> Invocation:
    request.idempotency_key = given.name(purpose)
    request.correlation_id = request.correlation_id or str(given.batch_id)
    request.traceparent = request.traceparent or _spec(given).traceparent  # as the runs of the items
    return read_envelope(request, tenant=given.tenant, shape=run_pb2.SHAPE_BATCH, max_attempts=max_attempts)


def _check_run(wrong: Violations, field: str, own: invoker_service_pb2.InvokeRequest, tenant: str) -> None:
    check_own(wrong, field, own)
    copy = invoker_service_pb2.InvokeRequest()
    copy.CopyFrom(own)
    read_envelope(
        copy,
        tenant=tenant,
        shape=run_pb2.SHAPE_BATCH,
        max_attempts=1,
        wrong=wrong.within(f"{field}."),
    )
