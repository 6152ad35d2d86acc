import json
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.client import Budget, BudgetDimension, Event, RunStatus, RunUnsuccessful, Shape, Started
from tests.examples.conftest import Desk

on_the_modules_loop = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
TICKET: dict[str, Any] = json.loads((ROOT / "examples/ticket.json").read_text())


def test_the_readme_shows_the_hello_agent_as_it_is() -> None:
    _, _, after = (ROOT / "README.md").read_text().partition("```python\n")
    assert after.partition("```")[0] == (ROOT / "examples/hello.py").read_text()


@on_the_modules_loop
async def test_the_hello_agent_greets(desk: Desk) -> None:
    handle = await desk.client.invoke("greet", {"name": "Ada"}, wait=30)
    assert await handle.result() == "hello Ada"


@on_the_modules_loop
async def test_a_person_gets_the_answer_streamed(desk: Desk) -> None:
    heard: dict[str, str] = {}
    kinds: list[str] = []
    async with desk.client.converse("support.triage", TICKET) as talk:
        async for update in talk:
            if isinstance(update, Event):
                kinds.append(update.kind)
                heard[update.step] = heard.get(update.step, "") + update.text
            else:
                assert isinstance(update, Started)
        assert talk.run is not None
    run = await desk.client.get_run(talk.run.run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert run.outcome is not None
    result = run.outcome.result
    assert heard["plan"] == result["plan"]
    assert heard["draft"] == result["answer"]
    assert "Ada Ashby is on the Team plan" in result["answer"]
    assert result["articles"] == ["Signing in fails after a password reset"]
    assert kinds.count("tool_called") == 2
    assert (run.usage.steps, run.usage.tools) == (4, 2)


@on_the_modules_loop
async def test_events_make_one_run_each_and_the_ticket_system_hears_once(desk: Desk) -> None:
    lines = (ROOT / "examples/ticket_events.jsonl").read_text().splitlines()
    published = await desk.client.publish([json.loads(line) for line in lines])
    assert [each.refusal for each in published] == [None] * 3
    assert [each.duplicate for each in published] == [False, False, True]
    assert published[0].run_id == published[2].run_id
    replies = {}
    for run_id in {each.run_id for each in published}:
        run = await desk.client.await_run(run_id, patience=30)
        assert run.shape is Shape.WORKER
        assert run.outcome is not None
        replies[run.outcome.result["ticket_id"]] = run.outcome.result["answer"]
    received = await _received(desk, replies)
    assert {each["body"]["ticket"]: each["body"]["reply"] for each in received} == replies
    assert [(each["count"], each["verified"]) for each in received] == [(1, True)] * 2


@on_the_modules_loop
async def test_an_unknown_customer_fails_the_run_with_the_agents_own_reason(desk: Desk) -> None:
    handle = await desk.client.invoke("support.triage", {**TICKET, "customer_id": "cus_999"})
    with pytest.raises(RunUnsuccessful, match="There is no customer cus_999") as ended:
        await handle.result(patience=30)
    outcome = ended.value.run.outcome
    assert outcome is not None
    assert outcome.failure is not None
    assert (outcome.status, outcome.failure.reason) == (RunStatus.FAILED, "UnknownCustomer")


@on_the_modules_loop
async def test_a_ticket_without_subject_is_refused_by_the_agents_type(desk: Desk) -> None:
    handle = await desk.client.invoke("support.triage", {**TICKET, "subject": None})
    run = await handle.ended(patience=30)
    assert run.outcome is not None
    assert run.outcome.failure is not None
    assert run.outcome.failure.reason == "INVALID_PAYLOAD"
    assert "subject" in run.outcome.failure.message


@on_the_modules_loop
async def test_a_run_out_of_steps_says_what_was_managed(desk: Desk) -> None:
    handle = await desk.client.invoke("support.triage", TICKET, budget=Budget(max_steps=1))
    run = await handle.ended(patience=30)
    assert run.outcome is not None
    assert (run.status, run.outcome.exhausted) == (RunStatus.PARTIAL, BudgetDimension.STEPS)
    assert run.outcome.result == "Left to a person: this run has spent its budget of steps."


async def _received(desk: Desk, tickets: dict[str, str]) -> list[dict[str, Any]]:
    """Wait until the ticket system has heard of all tickets, and return what it heard of them."""
    import asyncio

    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        received = [each for each in desk.receiver.received() if each["body"]["ticket"] in tickets]
        if len(received) >= len(tickets):
            return received
        await asyncio.sleep(0.02)
    raise AssertionError(f"the ticket system heard only of {desk.receiver.received()}")
