"""Gates as the contract shows them."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from holdfast.kit.rpc.payload import value_of
from holdfast.ledger.approval_view import Link, StoredGate
from holdfast.ledger.domain.approval import ApprovalStatus, Policy, Quorum
from holdfast.v1 import approval_pb2 as pb


def approval_message(stored: StoredGate, audit: Iterable[Link] = ()) -> pb.Approval:
    """Show a gate, with its entries of the audit log if they were asked for."""
    gate = stored.gate
    shown = pb.Approval(
        approval_id=str(stored.approval_id),
        run_id=str(stored.run_id),
        step=stored.step,
        intent=stored.intent,
        requester=gate.requester,
        title=stored.title,
        payload=value_of(json.loads(stored.payload)),
        payload_revision=gate.revision,
        policy=_policy(gate.policy),
        required=_quorums(gate.required),
        escalation_level=gate.level,
        reminders_sent=gate.reminded,
        status=pb.ApprovalStatus.ValueType(gate.status),
        labels=stored.labels,
        audit=[_entry(link) for link in audit],
    )
    for vote, (reason, moment) in zip(gate.votes, stored.reasons, strict=True):
        said = shown.votes.add(
            user=vote.person.user,
            verdict=pb.ApprovalVerdict.ValueType(vote.verdict),
            reason=reason,
            payload_revision=vote.revision,
            voided=vote.voided,
        )
        said.create_time.FromDatetime(moment)
    if stored.decision is not None:
        _decide(shown, stored)
    shown.create_time.FromDatetime(stored.create_time)
    shown.update_time.FromDatetime(stored.update_time)
    shown.deadline_time.FromDatetime(stored.deadline_time)
    return shown


def _decide(shown: pb.Approval, stored: StoredGate) -> None:
    assert stored.decision is not None  # the caller has looked
    decision = shown.decision
    decision.origin = pb.DecisionOrigin.ValueType(stored.decision["origin"])
    decision.deciders.extend(stored.decision["deciders"])
    decision.reason = stored.decision["reason"]
    decision.decide_time.FromDatetime(datetime.fromisoformat(stored.decision["time"]))
    if stored.gate.status is ApprovalStatus.APPROVED:
        decision.payload.CopyFrom(shown.payload)


def _policy(policy: Policy) -> pb.ApprovalPolicy:
    shown = pb.ApprovalPolicy(
        required=_quorums(policy.required),
        requester_may_approve=policy.requester_may_approve,
        payload_editable=policy.payload_editable,
        default_decision=pb.ApprovalVerdict.ValueType(policy.default),
        notice_destination=policy.notice_destination,
        admin_destination=policy.admin_destination,
    )
    shown.timeout.FromTimedelta(timedelta(seconds=policy.timeout))
    if policy.reminders is not None:
        shown.reminders.first_after.FromTimedelta(timedelta(seconds=policy.reminders.first_after))
        if policy.reminders.interval:
            shown.reminders.interval.FromTimedelta(timedelta(seconds=policy.reminders.interval))
        shown.reminders.max_count = policy.reminders.most
        shown.reminders.destination = policy.reminders.destination
    for step in policy.escalation:
        told = shown.escalation.add(
            required=_quorums(step.required), destination=step.destination, message=step.message
        )
        told.after.FromTimedelta(timedelta(seconds=step.after))
    return shown


def _quorums(quorums: Sequence[Quorum]) -> list[pb.Quorum]:
    return [
        pb.Quorum(
            count=quorum.count,
            approvers=[pb.Approver(**dict([name.split(":", 1)])) for name in quorum.approvers],
        )
        for quorum in quorums
    ]


def _entry(link: Link) -> pb.AuditEntry:
    entry = pb.AuditEntry(
        sequence=link.sequence,
        approval_id=str(link.approval_id),
        action=pb.AuditAction.ValueType(link.action),
        user=link.user,
        content=link.content,
        previous_hash=link.previous_hash,
        hash=link.hash,
    )
    entry.create_time.FromDatetime(link.create_time)
    return entry
