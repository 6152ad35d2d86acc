"""The research assistant answers from the documents, remembers the talk, and goes on alone when it must."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from examples.standins.chat_protocol import Answer, ChatRequest
from examples.standins.model_server import ModelServer
from holdfast.client import Budget, BudgetDimension, Client, Event, Invocation, RunStatus
from holdfast.dev import Suite

on_the_modules_loop = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Library:
    client: Client
    model: ModelServer


def script(chat: ChatRequest) -> Answer:
    """Search, read what was found, answer with it; or take a note when asked for one."""
    last = str(chat.messages[-1]["content"])
    if last.startswith("What does this say about the question"):
        return Answer("nothing much")
    if last == "Tell me everything, slowly.":
        return Answer("word " * 2000)
    since = [message for message in chat.messages if message["role"] in ("user", "tool")]
    since = since[max(at for at, message in enumerate(since) if message["role"] == "user") :]
    match len(since):
        case 1:
            return Answer(tool_calls=(("search", {"query": "pools runner scans"}),))
        case 2:
            return Answer(tool_calls=(("read", {"document": "adr/0005-pools.md"}),))
    questions = sum(message["role"] == "user" for message in chat.messages)
    return Answer(f"Answer {questions}, from adr/0005-pools.md")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def library() -> AsyncIterator[Library]:
    async with ModelServer(answer=script, token_delay_ms=2) as model:
        told = {
            "runner": {
                "OPENAI_BASE_URL": model.url,
                "OPENAI_API_KEY": "stand-in",
                "OPENAI_MODEL": "standin-large,standin-small",
            }
        }
        async with (
            Suite(["examples.research:app"], environments=told) as suite,
            Client(suite.invoker_addresses[0]) as client,
        ):
            yield Library(client, model)


async def told(library: Library, payload: dict[str, Any], **more: Any) -> tuple[list[Event], Any]:
    async with library.client.converse(Invocation("research", payload, **more)) as talk:
        events = [update async for update in talk if isinstance(update, Event)]
        assert talk.run is not None
    return events, await library.client.get_run(talk.run.run_id)


@on_the_modules_loop
async def test_it_searches_reads_and_answers_with_its_source(library: Library) -> None:
    events, run = await told(library, {"message": "Why are there pools?"})
    assert run.status is RunStatus.SUCCEEDED
    assert run.outcome.result == "Answer 1, from adr/0005-pools.md"
    kinds = [event.kind for event in events]
    assert kinds.index("said") < kinds.index("tool_called"), "it speaks before it works"
    assert kinds.count("tool_called") == kinds.count("tool_returned") == 2
    assert "budget_reported" in kinds
    assert run.usage.tools == 2


@on_the_modules_loop
async def test_it_remembers_what_the_conversation_was_about(library: Library) -> None:
    answers = []
    for question in ("Why are there pools?", "And what are they named by?"):
        _, run = await told(library, {"message": question}, session_id="a talk")
        answers.append(run.outcome.result)
    assert answers == ["Answer 1, from adr/0005-pools.md", "Answer 2, from adr/0005-pools.md"]


@on_the_modules_loop
async def test_a_cheaper_model_is_asked_as_the_budget_runs_low(library: Library) -> None:
    library.model.requests.clear()
    events, run = await told(library, {"message": "Why are there pools?"}, budget=Budget(max_steps=6))
    assert run.status is RunStatus.SUCCEEDED
    asked = [request["body"]["model"] for request in library.model.requests]
    assert asked == ["standin-large", "standin-large", "standin-small"]
    rungs = [event.data["rung"] for event in events if event.kind == "degraded"]
    assert rungs
    assert [each.rung for each in run.degradations] == rungs, "and the run says so afterwards"
    assert all(each.dimension is BudgetDimension.STEPS and each.limit == 6 for each in run.degradations)


@on_the_modules_loop
async def test_when_the_budget_ends_it_says_so(library: Library) -> None:
    _, run = await told(library, {"message": "Why are there pools?"}, budget=Budget(max_tools=1))
    assert run.status is RunStatus.PARTIAL
    assert run.outcome.result == "I ran out of tools after 1 look-ups; ask again with a larger budget."


@on_the_modules_loop
async def test_thorough_work_goes_on_in_the_background(library: Library) -> None:
    handle = await library.client.invoke(
        "research",
        {"message": "Why are there pools?", "thorough": True},
        budget=Budget(deadline_ms=20_000),
        handoff=Budget(deadline_ms=600_000),
    )
    run = await handle.ended(patience=60)
    assert run.status is RunStatus.SUCCEEDED
    assert run.handed_off
    async with library.client.watch(handle.run_id) as events:
        assert "handed_off" in [event.kind async for event in events if isinstance(event, Event)]


@on_the_modules_loop
async def test_whoever_interrupts_it_changes_its_course(library: Library) -> None:
    kinds = []
    interrupted = False
    asked = Invocation("research", {"message": "Tell me everything, slowly."})
    async with library.client.converse(asked) as talk:
        async for update in talk:
            if not isinstance(update, Event):
                continue
            kinds.append(update.kind)
            if update.kind == "token" and not interrupted:
                interrupted = True
                await talk.interrupt("Why are there pools?")
        assert talk.run is not None
    run = await library.client.get_run(talk.run.run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert run.outcome is not None
    assert run.outcome.result == "Answer 2, from adr/0005-pools.md"
    assert kinds.count("input_received") == 1
