"""The whole suite with everything that looks at it from outside switched on."""

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from examples.standins.model_server import ModelServer
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Client, Destination
from holdfast.dev import Suite
from tests.support.collector import Collector

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736
CALLER = 0x00F067AA0BA902B7
SERVICES = ("invoker", "checkpoint", "runner", "approval", "dispatcher")
MODEL_KEY = "sk-canary-of-the-model-51c9"
SIGNING_SECRET = "whsec_" + base64.b64encode(b"canary-of-signatures-24b").decode()
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

    def lines(self, service: str, **holding: str) -> list[dict[str, Any]]:
        """Return the lines of a service's log that hold this."""
        every = [json.loads(line) for line in self.suite.log(service).splitlines() if line.startswith("{")]
        return [line for line in every if holding.items() <= line.items()]

    async def page(self, service: str, *, accept: str = OPEN_METRICS) -> str:
        """Read the metrics of a service."""
        async with httpx.AsyncClient(trust_env=False) as reader:
            url = f"http://{self.suite.processes[service].metrics}/metrics"
            answer = await reader.get(url, headers={"Accept": accept})
        assert answer.status_code == 200
        return answer.text


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(Collector())
        receiver = await stack.enter_async_context(WebhookReceiver())
        model = await stack.enter_async_context(ModelServer())
        everywhere = collector.environment() | {
            "HOLDFAST_METRICS_LISTEN": "127.0.0.1:0",
            "HOLDFAST_ALLOW_PRIVATE_ADDRESSES": "1",
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": MODEL_KEY,
            "HOLDFAST_SECRET_SINK": SIGNING_SECRET,
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
            Destination(
                "sink", f"{receiver.url}/sink", secret_name="SINK", initial_backoff=0.05, max_backoff=0.2
            )
        )
        yield Watched(suite, client, collector, receiver, model)


@pytest.fixture
def calling() -> object:
    """Be a caller who is in a trace."""
    context = SpanContext(TRACE, CALLER, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    token = current.attach(set_span_in_context(NonRecordingSpan(context)))
    yield trace.get_current_span()
    current.detach(token)
