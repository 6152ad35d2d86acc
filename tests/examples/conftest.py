"""The suite on which the examples run, with stand-ins for the outside world."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from examples.standins.model_server import ModelServer
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Client, Destination
from holdfast.dev import Suite

SECRET = f"whsec_{base64.b64encode(b'a key of the tests').decode()}"


@dataclass(frozen=True)
class Desk:
    suite: Suite
    client: Client
    model: ModelServer
    receiver: WebhookReceiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk() -> AsyncIterator[Desk]:
    """Everything the example agents need; one for all tests of a module."""
    async with ModelServer() as model, WebhookReceiver(secret=SECRET) as receiver:
        told = {
            "runner": {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "stand-in"},
            "dispatcher": {"HOLDFAST_SECRET_TICKETS": SECRET},
        }
        agents = ["examples.hello:app", "examples.support_triage:app"]
        async with (
            Suite(agents, environments=told) as suite,
            Client(suite.invoker_addresses[0], dispatcher=suite.addresses["dispatcher"]) as client,
        ):
            await client.outbox.put_destination(
                Destination("tickets", f"{receiver.url}/tickets", secret_name="tickets")
            )
            yield Desk(suite, client, model, receiver)
