"""Approvals as values: who decides, what is decided, and what the log says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.client.number import ApprovalStatus
from holdfast.client.wire_value import plain_value, time_of
from holdfast.v1 import approval_pb2


@dataclass(frozen=True, slots=True)
class Person:
    """Who decides, as long as servers take the caller's word for it (on loopback only)."""

    user: str = ""
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What names the person to a call."""
        said = {
            "holdfast-user": self.user,
            "holdfast-groups": ",".join(self.groups),
            "holdfast-roles": ",".join(self.roles),
        }
        return tuple((key, value) for key, value in said.items() if value)


NOBODY = Person()


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A link of the tenant's audit log: `hash` is SHA-256 over `previous_hash` and `content`."""

    sequence: int
    approval_id: str
    user: str
    content: bytes
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Approval:
    """A gate: what is to be decided, of whom, until when, and how it stands; `by` are those who decided."""

    approval_id: str
    run_id: str
    step: str
    intent: str
    title: str
    status: ApprovalStatus
    payload: Any
    payload_revision: int
    requester: str
    required: tuple[str, ...]
    votes: tuple[str, ...]
    by: tuple[str, ...] = ()
    reason: str = ""
    create_time: datetime | None = None
    deadline_time: datetime | None = None
    decide_time: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    audit: tuple[AuditEntry, ...] = ()
    editable: bool = False
    """Whether who approves may change the payload."""


def approval_of(message: approval_pb2.Approval) -> Approval:
    """Return an approval."""
    decision = message.decision
    return Approval(
        approval_id=message.approval_id,
        run_id=message.run_id,
        step=message.step,
        intent=message.intent,
        title=message.title,
        status=ApprovalStatus(message.status),
        payload=plain_value(message.payload),
        payload_revision=message.payload_revision,
        requester=message.requester,
        required=tuple(_shown(quorum) for quorum in message.required),
        votes=tuple(
            f"{vote.user} {'approves' if vote.verdict == approval_pb2.APPROVAL_VERDICT_APPROVE else 'denies'}"
            for vote in message.votes
            if not vote.voided
        ),
        by=tuple(decision.deciders),
        reason=decision.reason,
        create_time=time_of(message.create_time),
        deadline_time=time_of(message.deadline_time),
        decide_time=time_of(decision.decide_time) if message.HasField("decision") else None,
        labels=dict(message.labels),
        editable=message.policy.payload_editable,
        audit=tuple(
            AuditEntry(
                entry.sequence,
                entry.approval_id,
                entry.user,
                entry.content,
                entry.previous_hash,
                entry.hash,
            )
            for entry in message.audit
        ),
    )


def _shown(quorum: approval_pb2.Quorum) -> str:
    names = [f"{who}:{getattr(each, who)}" for each in quorum.approvers if (who := each.WhichOneof("who"))]
    return f"{quorum.count} of {', '.join(names)}"
