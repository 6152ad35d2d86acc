"""Runs every block of docs/agents.md."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from examples.standins.chat_protocol import Answer, ChatRequest
from examples.standins.model_server import ModelServer
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Budget, BudgetDimension, Client, Destination, Event, RunStatus, RunUnsuccessful
from holdfast.dev import Suite

on_the_modules_loop = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
ORDER = {"id": "o-1", "customer": "Ada", "cents": 1}


@dataclass(frozen=True)
class Guide:
    client: Client
    receiver: WebhookReceiver
    module: Any


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write the guide's blocks as the module that they are."""
    folder = tmp_path_factory.mktemp("guide")
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/agents.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (folder / "desk.py").write_text("\n\n".join(blocks))
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("desk", None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guide(module_folder: Path) -> AsyncIterator[Guide]:
    async with ModelServer(answer=_answer) as model, WebhookReceiver() as receiver:
        told = {
            "runner": {
                "OPENAI_BASE_URL": model.url,
                "OPENAI_API_KEY": "stand-in",
                "PYTHONPATH": _path_with(module_folder),
            },
        }
        async with (
            Suite(["desk:app"], environments=told) as suite,
            Client(suite.invoker_addresses[0], dispatcher=suite.addresses["dispatcher"]) as client,
        ):
            await client.outbox.put_destination(Destination("warehouse", f"{receiver.url}/warehouse"))
            yield Guide(client, receiver, importlib.import_module("desk"))


def _path_with(folder: Path) -> str:
    return ":".join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])


def _answer(request: ChatRequest) -> Answer:
    """Call the tool wrongly, then rightly, then answer with what it returned."""
    told = [str(message["content"]) for message in request.messages if message["role"] == "tool"]
    if not told:
        return Answer(tool_calls=(("find_order", {"number": 7}),))
    if len(told) == 1:
        return Answer(tool_calls=(("find_order", {"order_id": "o-7"}),))
    return Answer(content=f"First: {told[0]} Then: {told[1]}")


async def _result(guide: Guide, intent: str, payload: dict[str, Any], **more: Any) -> Any:
    return await (await guide.client.invoke(intent, payload, **more)).result(patience=30)


def test_the_guide_is_well_typed(module_folder: Path) -> None:
    desk = str(module_folder / "desk.py")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", desk]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_guide_s_tests_in_the_lab_pass(module_folder: Path) -> None:
    assert module_folder.is_dir()
    desk = importlib.import_module("desk")
    desk.test_an_answer_rests_on_the_order()
    desk.test_an_answer_survives_every_crash()
    desk.test_each_order_is_described_by_a_run_of_its_own()


@on_the_modules_loop
async def test_steps_are_executed_and_their_types_come_back(guide: Guide) -> None:
    assert await _result(guide, "describe", ORDER) == "Ada paid 42.00"


@on_the_modules_loop
async def test_a_step_gets_its_idempotency_key(guide: Guide) -> None:
    handle = await guide.client.invoke("refund", ORDER)
    assert await handle.result(patience=30) == f"refunded 4200 under {handle.run_id}/refund, 45.36 USD"


@on_the_modules_loop
async def test_branches_add_up(guide: Guide) -> None:
    assert await _result(guide, "sum", {"orders": ["o-1", "o-2", "o-3"]}) == 6 * 4200


@on_the_modules_loop
async def test_a_conversation_remembers(guide: Guide) -> None:
    asked = [await guide.client.invoke("chat", {"question": f"o-{n}"}, session_id="s-1") for n in range(1, 4)]
    answers = [await each.result(patience=30) for each in asked]
    assert answers == ["question 1: o-1", "question 2: o-1, o-2", "question 3: o-1, o-2, o-3"]


@on_the_modules_loop
async def test_what_takes_long_goes_on_in_the_background(guide: Guide) -> None:
    handle = await guide.client.invoke(
        "audit", ORDER, budget=Budget(deadline_ms=60_000), handoff=Budget(deadline_ms=600_000)
    )
    assert await handle.result(patience=30) == "o-1 is in order"
    assert handle.run.handed_off
    assert handle.run.budget.deadline_ms == 600_000
    alone = await guide.client.invoke("audit", ORDER, budget=Budget(deadline_ms=60_000))
    await alone.result(patience=30)
    assert not alone.run.handed_off


@on_the_modules_loop
async def test_a_model_calls_tools_and_reads_why_a_call_was_none(guide: Guide) -> None:
    answer = await _result(guide, "answer", {"question": "what did Ada pay?"})
    assert answer.startswith("First: This call is not possible: ")
    assert "order_id" in answer
    assert 'Then: {"cents":4200,"customer":"Ada","id":"o-7"}' in answer


@on_the_modules_loop
async def test_an_optional_step_is_left_out_as_the_budget_runs_low(guide: Guide) -> None:
    assert await _result(guide, "summary", ORDER) == "Ada paid 42.00"
    told = await guide.client.invoke("summary", ORDER, budget=Budget(max_steps=1))
    assert (await told.ended(patience=30)).status is RunStatus.PARTIAL


@on_the_modules_loop
async def test_an_effect_of_one_key_is_one_over_all_runs(guide: Guide) -> None:
    for _ in range(2):
        assert await _result(guide, "ship", ORDER) == "ship:o-1"
    effects = [each async for each in guide.client.outbox.list_effects(destination="warehouse")]
    assert [each.idempotency_key for each in effects] == ["ship:o-1"]
    with pytest.raises(RunUnsuccessful) as ended:
        await _result(guide, "ship", {**ORDER, "customer": "another"})
    assert ended.value.run.status is RunStatus.FAILED


@on_the_modules_loop
async def test_an_effect_for_an_unknown_destination_fails_the_run(guide: Guide) -> None:
    async with Client(guide.client._addresses["invoker"] or "", tenant="stranger") as stranger:
        run = await (await stranger.invoke("ship", ORDER)).ended(patience=30)
    assert run.outcome is not None
    assert run.outcome.failure is not None
    assert (run.status, run.outcome.failure.reason) == (RunStatus.FAILED, "DESTINATION_NOT_FOUND")


@on_the_modules_loop
async def test_an_agent_is_spoken_to_and_interrupted(guide: Guide) -> None:
    async with guide.client.converse("dialogue") as talk:
        async for update in talk:
            if isinstance(update, Event) and update.kind == "started":
                await talk.input("really?")
                await talk.input("why?")
            if isinstance(update, Event) and (update.kind, update.step) == ("step_started", "ponder#2"):
                await talk.interrupt("leave it")
                await talk.input("goodbye")
    assert talk.run is not None
    run = await guide.client.get_run(talk.run.run_id)
    assert run.outcome is not None
    assert run.outcome.result == ["really? Yes.", "As you like: leave it"]


@on_the_modules_loop
async def test_children_are_asked_at_once_and_answer_in_order(guide: Guide) -> None:
    told = await _result(guide, "survey", {})
    assert told == ["Ada paid 42.00"] * 3


@on_the_modules_loop
async def test_a_limit_ends_the_run_with_what_was_managed(guide: Guide) -> None:
    handle = await guide.client.invoke("count", budget=Budget(max_steps=3))
    run = await handle.ended(patience=30)
    assert run.outcome is not None
    assert (run.status, run.outcome.exhausted) == (RunStatus.PARTIAL, BudgetDimension.STEPS)
    assert run.outcome.result == {"stopped_by": "STEPS", "steps": 3}


@on_the_modules_loop
@pytest.mark.parametrize("budget", [Budget(max_steps=2), Budget(deadline_ms=700)])
async def test_an_agent_may_return_what_it_has_when_the_budget_ends(guide: Guide, budget: Budget) -> None:
    run = await (await guide.client.invoke("collect", budget=budget)).ended(patience=30)
    assert run.status is RunStatus.PARTIAL
    assert run.outcome is not None
    assert run.outcome.result[:2] == ["o-0", "o-1"]
    # A step may be recorded just when the time is over, too late for the agent to see it.
    assert run.usage.steps - len(run.outcome.result) in {0, 1}


@on_the_modules_loop
async def test_an_agent_may_survive_a_failed_step(guide: Guide) -> None:
    assert await _result(guide, "reserve", {**ORDER, "id": "o-0"}) == "sorry: o-0 is sold out"
    assert await _result(guide, "reserve", ORDER) == "o-1"


@on_the_modules_loop
async def test_the_test_that_the_guide_shows_passes(guide: Guide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", _path_with(Path(guide.module.__file__).parent))
    await guide.module.test_a_refund_is_described()
