"""Cancelling a run reaches the model: its connection is closed, and it writes no more."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from examples.standins.chat_protocol import Answer
from examples.standins.model_server import ModelServer
from holdfast.client import Client, Event, Invocation, RunStatus
from holdfast.dev import Suite

on_the_modules_loop = pytest.mark.asyncio(loop_scope="module")
TICKET = {"id": "t-1", "customer_id": "c-1", "subject": "Broken", "body": "It does not start."}


@dataclass(frozen=True)
class Desk:
    client: Client
    model: ModelServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk() -> AsyncIterator[Desk]:
    """Agents that ask a model which would speak for minutes."""
    async with ModelServer(token_delay_ms=20, answer=lambda _: Answer("word " * 10_000)) as model:
        told = {"runner": {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "stand-in"}}
        async with (
            Suite(["examples.support_triage:app"], environments=told) as suite,
            Client(suite.invoker_addresses[0]) as client,
        ):
            yield Desk(client, model)


@on_the_modules_loop
async def test_the_model_is_left_soon_after_the_run_is_cancelled(
    desk: Desk,
) -> None:
    waits: list[float] = []
    for _ in range(5):
        async with asyncio.timeout(30), desk.client.converse(Invocation("support.triage", TICKET)) as talk:
            async for update in talk:
                if isinstance(update, Event) and update.kind == "token":
                    break
            assert talk.run is not None
            asked = time.monotonic()
            await desk.client.cancel(talk.run.run_id)
            waits.append(await desk.model.departures.get() - asked)
            run = await desk.client.await_run(talk.run.run_id)
            assert run.status is RunStatus.CANCELLED
    assert max(waits) < 1, f"{waits}: 100 ms is the promise; how exactly it is kept, the bench says"
    assert statistics.median(waits) < 0.5
    assert desk.model.stats.open_streams == 0
    assert desk.model.stats.tokens_sent_after_client_left == 0
