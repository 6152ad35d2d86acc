"""Who may decide a gate, when it is decided, and what its time brings: pure.

PENDING ──(enough approve)──▶ APPROVED
   ├──(one who is listed denies)──▶ DENIED
   ├──(its time is over)──▶ the default decision, or TIMED_OUT
   └──(its run ends)──▶ CANCELLED

An approval leaves PENDING once. A person counts once in each quorum, however many of its entries name them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, IntEnum


class ApprovalStatus(IntEnum):
    """The numbers of `holdfast.v1.ApprovalStatus`."""

    PENDING = 1
    APPROVED = 2
    DENIED = 3
    TIMED_OUT = 4
    CANCELLED = 5


class Verdict(IntEnum):
    """The numbers of `holdfast.v1.ApprovalVerdict`; NONE only as a default decision."""

    NONE = 0
    APPROVE = 1
    DENY = 2


class Origin(IntEnum):
    """The numbers of `holdfast.v1.DecisionOrigin`."""

    VOTES = 1
    TIMEOUT = 2
    CANCELLATION = 3


@dataclass(frozen=True, slots=True)
class Person:
    """Who decides, as the credential says."""

    user: str
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()

    def is_one_of(self, approvers: Sequence[str]) -> bool:
        """Tell whether an entry (`user:ann`, `group:underwriters`, `role:admin`) names the person."""
        own = {f"user:{self.user}", *(f"group:{g}" for g in self.groups), *(f"role:{r}" for r in self.roles)}
        return not own.isdisjoint(approvers)


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many different people of these entries must approve."""

    count: int
    approvers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Escalation:
    """From `after` seconds on others must approve, if `required` names any; `destination` is told."""

    after: float
    required: tuple[Quorum, ...] = ()
    destination: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Reminders:
    """When those who have not decided are reminded, in seconds; `interval` 0: once, `most` 0: on and on."""

    first_after: float
    interval: float = 0.0
    most: int = 0
    destination: str = ""

    def time_of(self, number: int) -> float | None:
        """Return when reminder `number`, from 1, is due; None if there is none."""
        most = min(self.most or MOST_REMINDERS, MOST_REMINDERS) if self.interval else 1
        return self.first_after + (number - 1) * self.interval if number <= most else None


MOST_REMINDERS = 100


@dataclass(frozen=True, slots=True)
class Policy:
    """The terms of a gate; times in seconds from the request."""

    required: tuple[Quorum, ...]
    timeout: float
    requester_may_approve: bool = False
    payload_editable: bool = False
    default: Verdict = Verdict.NONE
    notice_destination: str = ""
    admin_destination: str = ""
    reminders: Reminders | None = None
    escalation: tuple[Escalation, ...] = ()


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said, about which revision of the payload."""

    person: Person
    verdict: Verdict
    revision: int
    voided: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate as it stands under its lock."""

    policy: Policy
    requester: str
    status: ApprovalStatus = ApprovalStatus.PENDING
    required: tuple[Quorum, ...] = ()
    revision: int = 1
    editor: str = ""
    votes: tuple[Vote, ...] = ()
    level: int = 0
    reminded: int = 0


class Answer(Enum):
    """What becomes of a vote."""

    COUNTS = "it counts"
    REPEATED = "the person has said so before"
    DECIDED = "the gate is decided, or the person has said otherwise"
    EDITED = "someone has edited what the person has seen"
    NOT_LISTED = "the person may not decide this"
    NOT_EDITABLE = "what is decided may not be edited"


def vote(
    gate: Gate, person: Person, verdict: Verdict, *, edits: bool = False, revision: int = 0
) -> tuple[Answer, Gate]:
    """Decide about a vote, and return the gate after it."""
    before = next((v for v in reversed(gate.votes) if v.person.user == person.user and not v.voided), None)
    if before is not None and before.verdict is verdict and not edits:
        return Answer.REPEATED, gate
    if gate.status is not ApprovalStatus.PENDING or before is not None:
        return Answer.DECIDED, gate
    listed = any(person.is_one_of(quorum.approvers) for quorum in gate.required)
    own = verdict is Verdict.APPROVE and person.user == gate.requester
    if not listed or (own and not gate.policy.requester_may_approve):
        return Answer.NOT_LISTED, gate
    if edits and not (gate.policy.payload_editable and verdict is Verdict.APPROVE):
        return Answer.NOT_EDITABLE, gate
    if revision and revision != gate.revision:
        return Answer.EDITED, gate
    votes = gate.votes
    if edits:
        votes = tuple(replace(v, voided=True) if v.verdict is Verdict.APPROVE else v for v in votes)
        gate = replace(gate, revision=gate.revision + 1, editor=person.user)
    gate = replace(gate, votes=(*votes, Vote(person, verdict, gate.revision)))
    return Answer.COUNTS, settled(gate)


def settled(gate: Gate) -> Gate:
    """Return the gate, decided if its votes decide it."""
    valid = [v for v in gate.votes if not v.voided]
    if any(v.verdict is Verdict.DENY for v in valid):
        return replace(gate, status=ApprovalStatus.DENIED)
    if all(_met(quorum, valid) for quorum in gate.required):
        return replace(gate, status=ApprovalStatus.APPROVED)
    return gate


def _met(quorum: Quorum, votes: Sequence[Vote]) -> bool:
    return len({v.person.user for v in votes if v.person.is_one_of(quorum.approvers)}) >= quorum.count


class Brought(Enum):
    """What a moment in the life of a gate brings."""

    REMINDER = "reminder"
    ESCALATION = "escalation"
    TIMEOUT = "timeout"


def moments(gate: Gate) -> list[tuple[float, Brought]]:
    """Return what comes next of each kind, in seconds from the request, the first one first."""
    policy = gate.policy
    found = [(policy.timeout, Brought.TIMEOUT)]
    if gate.level < len(policy.escalation):
        found.append((policy.escalation[gate.level].after, Brought.ESCALATION))
    if policy.reminders is not None and (at := policy.reminders.time_of(gate.reminded + 1)) is not None:
        found.append((at, Brought.REMINDER))
    order = [Brought.ESCALATION, Brought.REMINDER, Brought.TIMEOUT]
    return sorted(found, key=lambda moment: (moment[0], order.index(moment[1])))


def passes(gate: Gate, age: float) -> tuple[list[tuple[Brought, int]], Gate]:
    """Return what has come by this age, each with its number, and the gate after it.

    Nothing comes after the timeout. Reminders that were missed, for everything was down, come as one.
    """
    brought: list[tuple[Brought, int]] = []
    while gate.status is ApprovalStatus.PENDING:
        at, what = moments(gate)[0]
        if at > age:
            break
        if what is Brought.ESCALATION:
            step = gate.policy.escalation[gate.level]
            gate = settled(replace(gate, level=gate.level + 1, required=step.required or gate.required))
            brought.append((what, gate.level))
        elif what is Brought.REMINDER:
            gate = replace(gate, reminded=gate.reminded + 1)
            brought = [each for each in brought if each[0] is not what]
            brought.append((what, gate.reminded))
        else:
            gate = replace(gate, status=_AT_TIMEOUT[gate.policy.default])
            brought.append((what, 1))
    return brought, gate


_AT_TIMEOUT = {
    Verdict.NONE: ApprovalStatus.TIMED_OUT,
    Verdict.APPROVE: ApprovalStatus.APPROVED,
    Verdict.DENY: ApprovalStatus.DENIED,
}


def next_time(gate: Gate, create_time: datetime) -> datetime | None:
    """Return when the gate is to be looked at again; None once it is decided."""
    if gate.status is not ApprovalStatus.PENDING:
        return None
    return create_time + timedelta(seconds=moments(gate)[0][0])
