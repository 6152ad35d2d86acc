"""What a gate asks for, read from the wire; each malformed field is named."""

import json
from collections.abc import Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value

from holdfast.kit.rpc.payload import MAX_BYTES, PayloadError, plain_value
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger.domain.approval import (
    MOST_REMINDERS,
    Escalation,
    Policy,
    Quorum,
    Reminders,
    Verdict,
)
from holdfast.v1 import approval_pb2 as pb

LONGEST: Final = 31 * 24 * 3600.0
MOST_APPROVERS: Final = 100
MOST_ESCALATIONS: Final = 10
LONGEST_TEXT: Final = 1000


def policy_of(policy: pb.ApprovalPolicy, wrong: Violations) -> Policy:
    """Read the terms of a gate; `wrong` gets what is wrong with them."""
    timeout = _seconds(policy.timeout, "policy.timeout", wrong) if policy.HasField("timeout") else 0.0
    if not policy.HasField("timeout"):
        wrong.add("policy.timeout", "must be given: no gate waits forever")
    if policy.default_decision not in Verdict._value2member_map_:
        wrong.add("policy.default_decision", "must be a verdict")
    if not policy.required:
        wrong.add("policy.required", "must have at least one entry")
    if len(policy.escalation) > MOST_ESCALATIONS:
        wrong.add("policy.escalation", f"must be at most {MOST_ESCALATIONS}")
    for name in ("notice_destination", "admin_destination"):
        wrong.text(f"policy.{name}", getattr(policy, name), required=False)
    return Policy(
        required=_quorums(policy.required, "policy.required", wrong),
        timeout=timeout,
        requester_may_approve=policy.requester_may_approve,
        payload_editable=policy.payload_editable,
        default=Verdict(policy.default_decision) if policy.default_decision in (0, 1, 2) else Verdict.NONE,
        notice_destination=policy.notice_destination,
        admin_destination=policy.admin_destination,
        reminders=_reminders(policy.reminders, wrong) if policy.HasField("reminders") else None,
        escalation=_escalation(policy.escalation, timeout, wrong),
    )


def json_of(value: Value, field: str, wrong: Violations) -> bytes:
    """Read a payload as JSON."""
    try:
        encoded = json.dumps(plain_value(value, field), ensure_ascii=False, sort_keys=True).encode()
    except PayloadError as error:
        wrong.add(error.field, str(error))
        return b"null"
    if len(encoded) > MAX_BYTES:
        wrong.add(field, f"must be at most {MAX_BYTES:,} bytes as JSON")
    return encoded


def _quorums(quorums: Iterable[pb.Quorum], field: str, wrong: Violations) -> tuple[Quorum, ...]:
    read = []
    for at, quorum in enumerate(quorums):
        named = tuple(
            f"{who}:{getattr(each, who)}" for each in quorum.approvers if (who := each.WhichOneof("who"))
        )
        if not 0 < len(quorum.approvers) <= MOST_APPROVERS or len(named) != len(quorum.approvers):
            wrong.add(
                f"{field}[{at}].approvers", f"must be 1 to {MOST_APPROVERS}, each a user, group or role"
            )
        for name in named:
            wrong.text(f"{field}[{at}].approvers", name.partition(":")[2])
        if quorum.count < 0:
            wrong.add(f"{field}[{at}].count", "must not be negative")
        read.append(Quorum(quorum.count or 1, named))
    return tuple(read)


def _reminders(policy: pb.ReminderPolicy, wrong: Violations) -> Reminders:
    if not 0 <= policy.max_count <= MOST_REMINDERS:
        wrong.add("policy.reminders.max_count", f"must be 0 to {MOST_REMINDERS}")
    wrong.text("policy.reminders.destination", policy.destination)
    interval = 0.0
    if policy.HasField("interval"):
        interval = _seconds(policy.interval, "policy.reminders.interval", wrong)
    first = _seconds(policy.first_after, "policy.reminders.first_after", wrong)
    return Reminders(first, interval, policy.max_count, policy.destination)


def _escalation(
    steps: Iterable[pb.EscalationStep], timeout: float, wrong: Violations
) -> tuple[Escalation, ...]:
    read: list[Escalation] = []
    for at, step in enumerate(steps):
        field = f"policy.escalation[{at}]"
        after = _seconds(step.after, f"{field}.after", wrong)
        if after >= timeout:
            wrong.add(f"{field}.after", "must be before the timeout")
        if read and after < read[-1].after:
            wrong.add(f"{field}.after", "must not be before the step before it")
        wrong.text(f"{field}.destination", step.destination, required=False)
        wrong.text(f"{field}.message", step.message, longest=LONGEST_TEXT, required=False)
        required = _quorums(step.required, f"{field}.required", wrong)
        read.append(Escalation(after, required, step.destination, step.message))
    return tuple(read)


def _seconds(span: Duration, field: str, wrong: Violations) -> float:
    seconds = float(span.seconds + span.nanos / 1e9)
    if not 0 < seconds <= LONGEST:
        wrong.add(field, "must be more than 0 and at most 31 days")
        return LONGEST
    return seconds
