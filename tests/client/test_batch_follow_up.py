"""Accepted outputs become runs: one per item, given the output as it was edited, and counted as they end."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.client import (
    BatchInput,
    BatchItemStatus,
    BatchSpec,
    BatchStatus,
    Client,
    Invocation,
    ItemReview,
    Person,
    RunStatus,
)
from holdfast.dev import Suite

DEADLINE_S = 120.0
AGENT = """
from typing import Any

from holdfast.agent import App, Permanent, Run

app = App("writer")


@app.agent("propose")
async def propose(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    return {"text": f"letter {payload['n']}"}


@app.agent("publish")
async def publish(run: Run, payload: dict[str, Any]) -> str:
    if payload["output"]["text"] == "letter 3":
        raise Permanent("nobody prints the third")
    return payload["where"] + ": " + payload["output"]["text"]
"""


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Suite]:
    (tmp_path / "writer.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Suite(agents=["writer:app"], database_url=database_url) as running:
        yield running


async def stands_at(client: Client, batch_id: str, status: BatchStatus) -> None:
    async with asyncio.timeout(DEADLINE_S), client.batches.watch(batch_id, interval=0.1) as updates:
        async for batch, _ in updates:
            if batch.status is status:
                return


async def test_each_accepted_output_becomes_a_run_and_failed_ones_say_so(suite: Suite) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        spec = BatchSpec(Invocation("propose"), start_when_uploaded=True)
        items = [BatchInput({"n": n}, f"letter-{n}") for n in range(6)]
        batch_id = (await client.batches.create(spec, items)).batch_id
        await stands_at(client, batch_id, BatchStatus.IN_REVIEW)
        said = [
            ItemReview(0, accepted=False, reason="no"),
            ItemReview(1, accepted=True, edited={"text": "better"}),
        ]
        await client.batches.review(batch_id, said, rest=True, reviewer=Person("ann"))
        assert (await client.batches.apply(batch_id, Invocation("publish", {"where": "here"})))[1] == 5
        await stands_at(client, batch_id, BatchStatus.APPLIED)
        found = {item.index: item async for item in client.batches.items(batch_id)}
        assert [found[n].status for n in range(6)] == [
            BatchItemStatus.REJECTED,
            BatchItemStatus.APPLIED,
            BatchItemStatus.APPLIED,
            BatchItemStatus.APPLY_FAILED,
            BatchItemStatus.APPLIED,
            BatchItemStatus.APPLIED,
        ]
        assert found[3].failure is not None
        assert found[3].failure.message == "nobody prints the third"
        run = await client.get_run(found[1].follow_up_run_id)
        assert run.outcome is not None
        assert (run.status, run.outcome.result) == (RunStatus.SUCCEEDED, "here: better")
        assert run.idempotency_key == f"batch/{batch_id}/1/apply"
        assert not found[0].follow_up_run_id
        parts = [part async for part in client.batches.export(batch_id)]
        lines = [json.loads(line) for line in b"".join(parts).splitlines()]
        assert lines[1]["review"]["edited_output"] == {"text": "better"}
