"""The examples in memory: what a newcomer's own tests look like."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from examples import hello, loan, research, support_triage
from holdfast.agent import Dimension, Limits, Message
from holdfast.agent.testing import (
    AMPLE,
    Answer,
    Lab,
    Script,
    Verdict,
    approve,
    crash_everywhere,
    deny,
    interrupt,
    reply,
    tool_call,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
TICKET: dict[str, Any] = json.loads((EXAMPLES / "ticket.json").read_text())
LOAN: dict[str, Any] = json.loads((EXAMPLES / "loan.json").read_text())
ANSWERS = Script("Look up who asks, then explain.", "Dear Ada, sign out everywhere.")


def test_the_hello_agent_survives_every_crash() -> None:
    result = Lab(hello.app).run("greet", {"name": "Ada"})
    assert result.value == "hello Ada"
    assert result.said == ["looking up Ada"]
    assert crash_everywhere(hello.app, "greet", {"name": "Ada"})


def test_a_ticket_is_answered_and_the_ticket_system_told_once() -> None:
    result = Lab(support_triage.app).run("support.triage", TICKET, model=ANSWERS)
    assert result.status == "SUCCEEDED"
    assert result.value["answer"] == "Dear Ada, sign out everywhere."
    assert [step.key for step in result.steps] == ["plan", "lookup_customer", "search_articles", "draft"]
    assert [effect.payload["reply"] for effect in result.effects] == ["Dear Ada, sign out everywhere."]


def test_a_ticket_survives_every_crash() -> None:
    assert crash_everywhere(support_triage.app, "support.triage", TICKET, model=ANSWERS)


def test_an_unknown_customer_fails_the_run_for_good() -> None:
    ticket = TICKET | {"customer_id": "cus_999"}
    result = Lab(support_triage.app).run("support.triage", ticket, model=ANSWERS)
    assert result.status == "FAILED"
    assert result.failure is not None
    assert result.failure.reason == "UnknownCustomer"
    assert result.effects == []


def test_a_ticket_beyond_its_budget_is_left_to_a_person() -> None:
    limits = Limits(AMPLE.deadline, 2, AMPLE.tools, AMPLE.tokens, AMPLE.context)
    result = Lab(support_triage.app).run("support.triage", TICKET, model=ANSWERS, limits=limits)
    assert (result.status, result.exhausted) == ("PARTIAL", Dimension.STEPS)
    assert result.value == "Left to a person: this run has spent its budget of steps."


def test_research_remembers_what_was_asked_and_may_be_interrupted() -> None:
    def librarian(messages: Sequence[Message]) -> Answer | str:
        if messages[-1].content == "And leases?":
            return "Leases are held by runners."
        if messages[-1].role == "tool":
            return reply("A run is one invocation.", takes=30)
        return tool_call("search", query="run")

    result = Lab(research.app).run(
        "research",
        {"message": "What is a run?"},
        model=Script(librarian),
        session={},
        signals=[interrupt("And leases?", at=10)],
    )
    assert result.value == "Leases are held by runners."
    assert "All right." in result.said
    assert result.session["turns"] == [
        {"question": "What is a run?", "answer": "Leases are held by runners."}
    ]


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A bank of its own for a test; returns what it has booked."""
    booked: list[str] = []
    keys: set[str] = set()

    class Bank:
        def book(self, key: str, what: str) -> None:
            if key not in keys:
                keys.add(key)
                booked.append(what)

    monkeypatch.setattr(loan, "BANK", Bank())
    return booked


def test_a_loan_is_paid_out_as_people_decided(books: list[str]) -> None:
    decisions = {"underwriter_review": approve(by="uma", after=3600)}
    result = Lab(loan.app).run("loan.originate", LOAN, decisions=decisions)
    assert result.value == "receipt L-1, as uma decided"
    assert books == ["held 500000 for L-1", "paid 500000 to Ada Ashby"]
    assert [effect.payload["letter"] for effect in result.effects] == ["approved"]


@pytest.mark.parametrize(
    ("decisions", "reason"),
    [({"underwriter_review": deny(reason="too much")}, "too much"), ({}, "Nobody decided in time.")],
)
def test_a_loan_that_is_not_granted_leaves_everything_as_it_was(
    books: list[str], decisions: dict[str, Verdict], reason: str
) -> None:
    result = Lab(loan.app).run("loan.originate", LOAN, decisions=decisions)
    assert result.status == "COMPENSATED"
    assert result.failure is not None
    assert (result.failure.reason, result.failure.message) == ("Denied", reason)
    assert books == ["held 500000 for L-1", "released 500000 for L-1"]
    assert [effect.payload["reason"] for effect in result.effects] == [reason]


def test_a_loan_cancelled_while_people_think_is_undone(books: list[str]) -> None:
    assert Lab(loan.app).run("loan.originate", LOAN, cancel_at=60.0).status == "COMPENSATED"
    assert books[-1] == "released 500000 for L-1"


def test_a_payout_that_fails_is_taken_back_before_the_hold(
    books: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def jammed(application: loan.Application, idempotency_key: str = "") -> str:  # noqa: ARG001
        loan.BANK.book(idempotency_key, "paid, or not")
        raise TimeoutError

    monkeypatch.setattr(loan.pay_out, "fn", jammed)
    decisions = {"underwriter_review": approve(by="uma")}
    result = Lab(loan.app).run("loan.originate", LOAN, decisions=decisions, max_attempts=1)
    assert result.status == "COMPENSATED"
    assert books[-3:] == ["paid, or not", "reversed 500000 for L-1", "released 500000 for L-1"]


@pytest.mark.parametrize("verdict", [approve(by="uma"), deny(reason="no")])
def test_a_loan_survives_every_crash(books: list[str], verdict: Verdict) -> None:
    assert crash_everywhere(loan.app, "loan.originate", LOAN, decisions={"underwriter_review": verdict})
    assert len(books) == len(set(books)) == 2
