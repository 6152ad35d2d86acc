"""The world of the demo: the suite with two runners, and around it stand-ins for what is outside.

    async with World.opened(screen) as world: …

It stands when the block begins and is gone when it ends, however it ends.
"""

import base64
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from examples.demo.screen import Screen
from examples.standins.model_server import ModelServer
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Client, Destination
from holdfast.dev import ServiceProcess, Suite

AGENTS = "examples.support_triage:app"
TOKEN_DELAY_MS = 25.0
MODEL_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_KEY")


@dataclass(frozen=True)
class World:
    """Handles to everything; `model` is None when a real one is used."""

    suite: Suite
    client: Client
    receiver: WebhookReceiver
    model: ModelServer | None

    @classmethod
    @asynccontextmanager
    async def opened(cls, screen: Screen) -> AsyncIterator["World"]:
        """Bring everything up, saying what it is. Raises `SuiteError` when something does not start."""
        async with AsyncExitStack() as stack:
            secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
            receiver = await stack.enter_async_context(WebhookReceiver(secret=secret))
            model = await _model(stack, screen)
            screen.event("stand-in", f"webhook receiver at {receiver.url}, in place of your ticket system")
            suite = await stack.enter_async_context(_suite(secret, model))
            client = await stack.enter_async_context(
                Client(
                    suite.invoker_addresses[0],
                    dispatcher=suite.addresses["dispatcher"],
                    checkpoint=suite.addresses["checkpoint"],
                )
            )
            for name, address in suite.addresses.items():
                screen.event(name, f"{address}, process {suite.processes[name].pid}")
            tickets = Destination("tickets", f"{receiver.url}/tickets", secret_name="tickets")  # noqa: S106 -- its name
            await client.outbox.put_destination(tickets)
            screen.event("destination", "tickets: effects go to the receiver, signed")
            yield cls(suite, client, receiver, model)

    def tool_calls(self, runner: ServiceProcess | None = None) -> dict[str, int]:
        """Count how often each tool was really executed, by what the tools have logged on each runner."""
        logs = [self.suite.log(each.name) for each in ([runner] if runner else self.suite.runners)]
        return {
            tool: sum(log.count(f'"{tool} ') for log in logs)
            for tool in ("lookup_customer", "search_articles")
        }

    def model_requests(self, run_id: str) -> dict[str, int]:
        """Count what the stand-in was asked by a run, by the step that asked."""
        asked = [str(each["idempotency_key"]) for each in self.model.requests] if self.model else []
        return dict(Counter(key.removeprefix(f"{run_id}/") for key in asked if key.startswith(run_id)))


async def _model(stack: AsyncExitStack, screen: Screen) -> ModelServer | None:
    if all(os.environ.get(name) for name in MODEL_VARIABLES):
        screen.event("model", f"{os.environ['OPENAI_BASE_URL']}, as OPENAI_BASE_URL says")
        return None
    model = await stack.enter_async_context(ModelServer(token_delay_ms=TOKEN_DELAY_MS))
    screen.event("stand-in", f"model server at {model.url}: the OpenAI protocol, invented answers")
    return model


def _suite(secret: str, model: ModelServer | None) -> Suite:
    runner = {} if model is None else {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "stand-in"}
    dispatcher = {"HOLDFAST_SECRET_TICKETS": secret}
    # Not supervised: the runner that is killed stays dead, so that another must take its run.
    return Suite(
        [AGENTS], runners=2, supervise=False, environments={"runner": runner, "dispatcher": dispatcher}
    )
