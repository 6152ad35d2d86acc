"""The whole suite with everything that looks at it from outside switched on."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.standins.model_server import ModelServer
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Client, Destination
from holdfast.dev import Suite
from tests.support.collector import Collector

QUICK = {
    "HOLDFAST_HEARTBEAT_INTERVAL": "0.5",
    "HOLDFAST_LEASE_TTL": "3",
    "HOLDFAST_BROKEN_STREAM_GRACE": "0.3",
}


@dataclass
class Watched:
    """The suite, a client of it, and who watches."""

    suite: Suite
    client: Client
    collector: Collector
    receiver: WebhookReceiver
    model: ModelServer


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(Collector())
        receiver = await stack.enter_async_context(WebhookReceiver())
        model = await stack.enter_async_context(ModelServer())
        everywhere = collector.environment() | {
            "HOLDFAST_ALLOW_PRIVATE_ADDRESSES": "1",
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "stand-in",
            "OPENAI_MODEL": "tiny",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
        }
        suite = await stack.enter_async_context(
            Suite(["tests.telemetry.agents:app"], environment=everywhere, environments={"invoker": QUICK})
        )
        client = await stack.enter_async_context(
            Client(
                suite.invoker_addresses[0],
                dispatcher=suite.addresses["dispatcher"],
                approval=suite.addresses["approval"],
            )
        )
        await client.outbox.put_destination(
            Destination("sink", f"{receiver.url}/sink", initial_backoff=0.05, max_backoff=0.2)
        )
        yield Watched(suite, client, collector, receiver, model)
