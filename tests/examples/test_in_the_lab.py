"""The examples in memory: what a newcomer's own tests look like."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples import hello, research, support_triage
from holdfast.agent import Dimension, Limits, Message
from holdfast.agent.testing import AMPLE, Answer, Lab, Script, crash_everywhere, interrupt, reply, tool_call

TICKET: dict[str, Any] = json.loads((Path(__file__).parents[2] / "examples/ticket.json").read_text())
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
