"""Gates as an agent has them: whom it asks, what it asks, and what they decided."""

import re
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from holdfast.agent.error import Permanent
from holdfast.agent.wire.field import write_duration
from holdfast.v1.approval_pb2 import ApprovalPolicy, ApprovalVerdict, Quorum
from holdfast.v1.approval_service_pb2 import RequestApprovalRequest

_ENTRY: Final = re.compile(r"(?:(?P<count>[1-9]\d{0,2}) of )?(?P<kind>user|group|role):(?P<name>.+)")
_DEFAULTS: Final = {"approve": 1, "deny": 2, "": 0}


@dataclass(frozen=True, slots=True)
class Decision:
    """How a gate was decided: `APPROVED`, `DENIED` or `TIMED_OUT`.

    `CANCELLED` if the run had ended before anyone decided, and was started again: gates are decided once.
    `by` are the people whose votes decided, nobody at a timeout; `payload` is what was approved, with edits.
    """

    status: str
    by: tuple[str, ...] = ()
    reason: str = ""
    payload: Any = None
    time: datetime | None = None

    @property
    def approved(self) -> bool:
        """Whether the agent may go on: people said so, or the gate's default."""
        return self.status == "APPROVED"

    @property
    def denied(self) -> bool:
        """Whether someone said no, or the gate's default."""
        return self.status == "DENIED"

    @property
    def timed_out(self) -> bool:
        """Whether nobody had decided in time, and the gate has no default."""
        return self.status == "TIMED_OUT"


@dataclass(frozen=True, slots=True)
class Escalate:
    """After so long without a decision: others must approve from then on, and a destination is told."""

    after: float | timedelta
    approvers: tuple[str, ...] = ()
    destination: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Remind:
    """Remind through a destination: first after so long, then every `interval`, at most `most` times."""

    destination: str
    first_after: float | timedelta
    interval: float | timedelta | None = None
    most: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """A gate: its id, the mailbox key under which the decision comes, and whether it was there before."""

    approval_id: str
    key: str
    found: bool = False


class Gates(Protocol):
    """The way to the Approval service, as a runner has it."""

    async def request(self, asked: RequestApprovalRequest) -> Opened:
        """Open a gate, or find it.

        Waits while the service is away. Raises `Permanent` for what it refuses.
        """


class _NoGates:
    """Stands where no Approval service is known."""

    async def request(self, *_: object) -> Opened:
        """Refuse."""
        raise Permanent("this runner knows no Approval service", reason="NO_APPROVAL_SERVICE")


NO_GATES: Final[Gates] = _NoGates()


def policy_of(
    approvers: Iterable[str],
    timeout: float | timedelta,
    *,
    escalate: Iterable[Escalate] = (),
    remind: Remind | None = None,
    requester_may_approve: bool = False,
    editable: bool = False,
    default: str = "",
    notice: str = "",
    admin: str = "",
) -> ApprovalPolicy:
    """Make the terms of a gate. Raises ValueError for what is none."""
    if default not in _DEFAULTS:
        raise ValueError(f"A gate's default is 'approve', 'deny' or none, not {default!r}.")
    policy = ApprovalPolicy(
        required=_quorums(approvers),
        requester_may_approve=requester_may_approve,
        payload_editable=editable,
        default_decision=ApprovalVerdict.ValueType(_DEFAULTS[default]),
        notice_destination=notice,
        admin_destination=admin,
    )
    if not policy.required:
        raise ValueError("A gate needs approvers, for example 'group:underwriters'.")
    write_duration(policy.timeout, _seconds(timeout))
    if remind is not None:
        write_duration(policy.reminders.first_after, _seconds(remind.first_after))
        if remind.interval is not None:
            write_duration(policy.reminders.interval, _seconds(remind.interval))
        policy.reminders.max_count = remind.most
        policy.reminders.destination = remind.destination
    for each in escalate:
        step = policy.escalation.add(
            required=_quorums(each.approvers), destination=each.destination, message=each.message
        )
        write_duration(step.after, _seconds(each.after))
    return policy


def decision_of(letter: Any) -> Decision:
    """Read the signal that tells a decision."""
    return Decision(
        status=letter["status"],
        by=tuple(letter["deciders"]),
        reason=letter["reason"],
        payload=letter["payload"],
        time=datetime.fromisoformat(letter["time"]),
    )


async def decided(step: Awaitable[tuple[str, Any] | None]) -> Decision:
    """Return the decision that a wait has brought."""
    found = await step
    assert found is not None  # it has no end of its own: the gate has
    return decision_of(found[1])


def _quorums(approvers: Iterable[str]) -> list[Quorum]:
    """Read entries such as `user:ann`; those without a number are one quorum, of which one is enough."""
    anyone = Quorum()
    quorums = []
    for text in approvers:
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise ValueError(f"An approver is 'user:x', 'group:x', 'role:x' or '2 of group:x', not {text!r}.")
        quorum = Quorum(count=int(match["count"])) if match["count"] else anyone
        quorum.approvers.add(**{match["kind"]: match["name"]})
        if match["count"]:
            quorums.append(quorum)
    return [anyone, *quorums] if anyone.approvers else quorums


def _seconds(span: float | timedelta) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else float(span)
