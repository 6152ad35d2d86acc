"""A gate against a plain model of it: who approved which payload, what time has brought, and one end."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.ledger.domain.approval import (
    Answer,
    ApprovalStatus,
    Brought,
    Escalation,
    Gate,
    Person,
    Policy,
    Quorum,
    Reminders,
    Verdict,
    moments,
    passes,
    vote,
)

APPROVE, DENY = Verdict.APPROVE, Verdict.DENY
GROUPS = {"ann": {"x"}, "ben": {"x", "y"}, "cat": {"y"}, "rex": {"x"}, "out": set[str]()}
PEOPLE = {name: Person(name, frozenset(groups)) for name, groups in GROUPS.items()}
AT_TIMEOUT = {
    Verdict.NONE: ApprovalStatus.TIMED_OUT,
    APPROVE: ApprovalStatus.APPROVED,
    DENY: ApprovalStatus.DENIED,
}


def gate(*required: Quorum, **more: Any) -> Gate:
    policy = Policy(required or (Quorum(1, ("group:x",)),), timeout=600.0, **more)
    return Gate(policy, "rex", required=policy.required)


def test_a_person_whom_several_entries_name_counts_once_in_each_quorum() -> None:
    _, once = vote(gate(Quorum(2, ("user:ben", "group:x", "group:y"))), PEOPLE["ben"], APPROVE)
    assert once.status is ApprovalStatus.PENDING
    each = (Quorum(1, ("group:x",)), Quorum(1, ("group:y",)))
    assert vote(gate(*each), PEOPLE["ben"], APPROVE)[1].status is ApprovalStatus.APPROVED


def test_a_name_is_matched_as_what_it_is_the_name_of() -> None:
    for entry in ("group:ann", "role:ann", "role:x", "user:x"):
        assert vote(gate(Quorum(1, (entry,))), PEOPLE["ann"], APPROVE)[0] is Answer.NOT_LISTED


def test_who_asked_may_deny_and_approves_only_where_that_is_allowed() -> None:
    rex = PEOPLE["rex"]
    assert vote(gate(), rex, APPROVE)[0] is Answer.NOT_LISTED
    assert vote(gate(), rex, DENY)[1].status is ApprovalStatus.DENIED
    assert vote(gate(requester_may_approve=True), rex, APPROVE)[0] is Answer.COUNTS


def test_a_denial_carries_no_edit_and_an_edit_needs_the_policy() -> None:
    assert vote(gate(), PEOPLE["ann"], APPROVE, edits=True)[0] is Answer.NOT_EDITABLE
    editable = gate(payload_editable=True)
    assert vote(editable, PEOPLE["ann"], DENY, edits=True)[0] is Answer.NOT_EDITABLE


@pytest.mark.parametrize(
    ("reminders", "times"),
    [
        (Reminders(60.0), [60]),
        (Reminders(60.0, 100.0, 3), [60, 160, 260]),
        (Reminders(60.0, 100.0), [60, 160, 260, 360, 460, 560]),
    ],
)
def test_reminders_come_in_time_as_often_as_asked_and_never_after_the_deadline(
    reminders: Reminders, times: list[int]
) -> None:
    at, found = gate(reminders=reminders), []
    for age in range(0, 700, 10):
        brought, at = passes(at, age)
        found += [age for what, _ in brought if what is Brought.REMINDER]
    assert found == times


class GateMachine(RuleBasedStateMachine):
    """Keeps who approved the payload as it is, and ends with the first thing that ends it."""

    @initialize(x=st.integers(1, 3), y=st.integers(0, 2), own=st.booleans(), default=st.sampled_from(Verdict))
    def open(self, x: int, y: int, own: bool, default: Verdict) -> None:  # noqa: FBT001
        self.counts = [("x", x)] + ([("y", y)] if y else [])
        self.own, self.default, self.age = own, default, 0.0
        self.approvals: set[str] = set()
        self.revision = 1
        self.status = ApprovalStatus.PENDING
        self.escalated = False
        self.gate = gate(
            *(Quorum(count, (f"group:{name}",)) for name, count in self.counts),
            requester_may_approve=own,
            payload_editable=True,
            default=default,
            reminders=Reminders(50.0, 70.0),
            escalation=(Escalation(300.0, (Quorum(1, ("group:y",)),)),),
        )

    def may(self, who: str, verdict: Verdict) -> bool:
        asked = any(name in GROUPS[who] for name, _ in self.counts)
        return asked and (verdict is DENY or who != "rex" or self.own)

    @rule(who=st.sampled_from(sorted(PEOPLE)), verdict=st.sampled_from([APPROVE, DENY]))
    def someone_votes(self, who: str, verdict: Verdict) -> None:
        before = self.gate
        answer, after = vote(before, PEOPLE[who], verdict, revision=self.revision)
        pending = self.status is ApprovalStatus.PENDING
        counts = pending and who not in self.approvals and self.may(who, verdict)
        assert (answer is Answer.COUNTS) == counts
        if not counts:
            assert after is before
            if who in self.approvals:
                assert answer is (Answer.REPEATED if verdict is APPROVE else Answer.DECIDED)
            return
        self.gate = after
        if verdict is DENY:
            self.status = ApprovalStatus.DENIED
            return
        self.approvals.add(who)
        self.count()

    @rule(who=st.sampled_from(sorted(PEOPLE)))
    def someone_edits(self, who: str) -> None:
        pending = self.status is ApprovalStatus.PENDING
        counts = pending and who not in self.approvals and self.may(who, APPROVE)
        answer, after = vote(self.gate, PEOPLE[who], APPROVE, edits=True, revision=self.revision)
        assert (answer is Answer.COUNTS) == counts
        if counts:
            self.gate = after
            self.revision += 1
            self.approvals = {who}
            self.count()

    @rule(who=st.sampled_from(["ann", "ben", "cat"]))
    def someone_who_saw_another_payload_has_no_say(self, who: str) -> None:
        answer, after = vote(self.gate, PEOPLE[who], DENY, revision=self.revision + 1)
        assert answer is not Answer.COUNTS
        assert after is self.gate

    @rule(seconds=st.sampled_from([1.0, 60.0, 250.0, 400.0]))
    def time_passes_and_is_looked_at(self, seconds: float) -> None:
        self.age += seconds
        brought, self.gate = passes(self.gate, self.age)
        assert passes(self.gate, self.age) == ([], self.gate)
        kinds = [what for what, _ in brought]
        assert kinds.count(Brought.REMINDER) <= 1
        pending = self.status is ApprovalStatus.PENDING
        escalates = pending and self.age >= 300 and not self.escalated
        assert (Brought.ESCALATION in kinds) == escalates
        if escalates:
            self.escalated = True
            self.counts = [("y", 1)]
            self.count()
        ends = self.status is ApprovalStatus.PENDING and self.age >= 600
        assert (Brought.TIMEOUT in kinds) == ends
        if ends:
            self.status = AT_TIMEOUT[self.default]

    def count(self) -> None:
        if all(len([w for w in self.approvals if n in GROUPS[w]]) >= count for n, count in self.counts):
            self.status = ApprovalStatus.APPROVED

    @invariant()
    def it_stands_as_the_model_says(self) -> None:
        if not hasattr(self, "gate"):
            return
        assert self.gate.status is self.status
        assert self.gate.revision == self.revision
        standing = {v.person.user for v in self.gate.votes if v.verdict is APPROVE and not v.voided}
        assert standing == self.approvals
        if self.status is ApprovalStatus.PENDING:
            assert moments(self.gate)[0][0] > self.age


test_a_gate_stands_as_a_plain_model_says = GateMachine.TestCase
