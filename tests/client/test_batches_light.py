"""Light items over the real services: each recorded once, whatever is killed while a chunk is executed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.client import BatchInput, BatchItemStatus, BatchSpec, BatchStatus, Budget, Client, Invocation
from holdfast.dev import Suite

DEADLINE_S = 120.0
AGENT = """
import asyncio
import os
from pathlib import Path
from typing import Any

from holdfast.agent import App, Permanent, Run

app = App("sorter")
seen = Path(__file__).with_name("seen")


async def look(number: int) -> int:
    await asyncio.sleep(0.01)
    return number * 2


@app.agent("double", light=True)
async def double(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    with seen.open("a") as file:
        file.write(f"{payload['n']}\\n")
    match payload["kind"]:
        case "odd":
            raise Permanent("odd ones are not doubled")
        case "slow":
            await asyncio.sleep(60)
        case "deadly" if payload["n"] == 5:
            os._exit(1)
    return {"doubled": await run.step(look, payload["n"]), "kind": payload["kind"]}
"""


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Suite]:
    (tmp_path / "sorter.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with (
        Suite(agents=["sorter:app"], database_url=database_url) as running,
        Client(running.invoker_addresses[0]) as client,
    ):
        # A tenant's first run makes its row; before, nobody knows its limits.
        await (await client.invoke("double", {"n": 0, "kind": "even"})).result(patience=DEADLINE_S)
        yield running


def spec(**more: object) -> BatchSpec:
    values = {"tolerated_share": 1.0, "label_field": "kind", "start_when_uploaded": True}
    budget = Budget(deadline_ms=3000)
    return BatchSpec(Invocation("double", {"kind": "even"}, budget=budget), **values | more)  # type: ignore[arg-type]


async def in_review(client: Client, batch_id: str) -> Counter[BatchItemStatus]:
    async with asyncio.timeout(DEADLINE_S), client.batches.watch(batch_id, interval=0.1) as updates:
        async for batch, progress in updates:
            if batch.status is BatchStatus.IN_REVIEW:
                return Counter(progress.counts)
    raise AssertionError("the batch has ended")


async def test_many_share_a_run_and_each_has_its_own_end(suite: Suite) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        kinds = {3: "odd", 4: "slow"}
        items = [BatchInput({"n": n, "kind": kinds.get(n, "even")}) for n in range(60)]
        batch = await client.batches.create(spec(max_parallelism=200), items)
        assert await in_review(client, batch.batch_id) == {
            BatchItemStatus.STAGED: 58,
            BatchItemStatus.SKIPPED: 2,
        }
        found = [item async for item in client.batches.items(batch.batch_id)]
        assert found[9].output == {"doubled": 18, "kind": "even"}
        assert (found[9].label, found[9].run_id, found[9].attempts, found[9].usage.steps) == (
            "even",
            "",
            1,
            1,
        )
        assert found[3].failure is not None
        assert found[3].failure.reason == "PERMANENT"
        assert found[4].failure is not None
        assert found[4].failure.reason == "BUDGET_EXHAUSTED"
        runs = [run async for run in client.list_runs(intent="double#light")]
        assert len(runs) == 2, "60 items, 50 to a run"


async def test_a_killed_runner_s_chunks_are_executed_again_and_recorded_once(
    suite: Suite, tmp_path: Path
) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        items = [BatchInput({"n": n}) for n in range(400)]
        batch = await client.batches.create(spec(max_parallelism=40), items)
        async with asyncio.timeout(DEADLINE_S), client.batches.watch(batch.batch_id, interval=0.1) as updates:
            async for _, progress in updates:
                if progress.counts.get(BatchItemStatus.STAGED, 0) >= 20:
                    break
        await suite.processes["runner"].kill()
        assert await in_review(client, batch.batch_id) == {BatchItemStatus.STAGED: 400}
        found = [item async for item in client.batches.items(batch.batch_id, page_size=500)]
        assert [item.output["doubled"] for item in found] == [2 * n for n in range(400)]
        executed = set((tmp_path / "seen").read_text().split())
        assert executed == {str(n) for n in range(400)}


async def test_an_item_that_kills_its_runner_is_skipped_and_its_neighbours_are_not(suite: Suite) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        items = [BatchInput({"n": n, "kind": "deadly"}) for n in range(8)]
        batch = await client.batches.create(spec(max_parallelism=32), items)
        await in_review(client, batch.batch_id)
        skipped = [
            (each.payload["n"], each.failure and each.failure.reason)
            async for each in client.batches.items(batch.batch_id, statuses=[BatchItemStatus.SKIPPED])
        ]
        assert skipped == [(5, "RUNNER_LOST")]
