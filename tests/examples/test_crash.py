import asyncio
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.demo.screen import Screen
from examples.demo.story import Story
from examples.standins.model_server import ModelServer
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Client, Destination, EffectStatus, RunStatus
from holdfast.dev import Suite

TICKET: dict[str, Any] = json.loads((Path(__file__).parents[2] / "examples/ticket.json").read_text())
MOMENTS = [
    ("token", "plan"),
    ("step_finished", "lookup_customer"),
    ("token", "draft"),
    ("step_finished", "draft"),
]


async def test_the_agent_survives_the_death_of_its_runner_at_any_moment() -> None:
    async with ModelServer(token_delay_ms=5) as model, WebhookReceiver() as receiver:
        told = {"runner": {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "stand-in"}}
        async with (
            Suite(["examples.support_triage:app"], environments=told) as suite,
            Client(suite.invoker_addresses[0], dispatcher=suite.addresses["dispatcher"]) as client,
        ):
            await client.outbox.put_destination(Destination("tickets", f"{receiver.url}/tickets"))
            for kind, step in MOMENTS:
                run_id = await _run_with_a_crash(client, suite, kind, step)
                await _effect_delivered(client, run_id)
        assert receiver.statistics() == dict.fromkeys(
            ("deliveries", "applied", "idempotency_keys"), len(MOMENTS)
        )


async def _run_with_a_crash(client: Client, suite: Suite, kind: str, step: str) -> str:
    """Kill the runner when the moment has come, and see the run through to its end."""
    story = Story(Screen(Console(file=io.StringIO())))
    recorded: set[str] = set()
    killed = False
    handle = await client.invoke("support.triage", TICKET)
    async with handle.watch() as updates:
        async for event in story.follow(updates):
            if event.kind == "step_started" and not killed:
                # In this agent each step starts when what came before it is durable.
                recorded = {each.step for each in story.events if each.kind == "step_finished"}
            if (event.kind, event.step) == (kind, step) and not killed:
                killed = True
                await suite.runners[0].kill()
    run = await handle.ended(patience=30)
    moment = f"{kind} of {step}"
    assert killed, moment
    assert run.status is RunStatus.SUCCEEDED, moment
    assert run.outcome is not None
    assert run.outcome.result["answer"] == story.said_in("draft"), moment
    assert [event.sequence for event in story.events] == list(range(1, len(story.events) + 1)), moment
    finished = [event.step for event in story.events if event.kind == "step_finished"]
    assert finished == ["plan", "lookup_customer", "search_articles", "draft"], moment
    assert (run.usage.steps, run.usage.tools) == (4, 2), moment
    assert {story.tries()[each] for each in recorded} <= {1}, moment
    return handle.run_id


async def _effect_delivered(client: Client, run_id: str) -> None:
    async with asyncio.timeout(20):
        while True:
            effects = [each async for each in client.outbox.list_effects(run_id=run_id)]
            assert len(effects) == 1
            if effects[0].status is EffectStatus.DELIVERED:
                return
            await asyncio.sleep(0.02)
