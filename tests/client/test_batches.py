"""A batch over the real services: nothing skipped, nothing doubled, whatever is killed under it."""

import asyncio
import json
from collections import Counter
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
    errors,
)
from holdfast.dev import Suite

DEADLINE_S = 120.0
AGENT = """
import asyncio
from typing import Any

from holdfast.agent import App, Permanent, Run

app = App("sorter")


async def look(number: int) -> int:
    await asyncio.sleep(0.02)
    return number * 2


@app.agent("double")
async def double(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    if payload["n"] % 10 == 7:
        raise Permanent("sevens are not doubled")
    return {"doubled": await run.step(look, payload["n"]), "kind": payload["kind"]}
"""


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Suite]:
    (tmp_path / "sorter.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Suite(agents=["sorter:app"], database_url=database_url) as running:
        yield running


def spec(**more: object) -> BatchSpec:
    values = {"tolerated_share": 1.0, "label_field": "kind", "start_when_uploaded": True}
    return BatchSpec(Invocation("double", {"kind": "number"}), **values | more)  # type: ignore[arg-type]


async def in_review(client: Client, batch_id: str) -> Counter[BatchItemStatus]:
    async with asyncio.timeout(DEADLINE_S), client.batches.watch(batch_id, interval=0.1) as updates:
        async for batch, progress in updates:
            assert sum(progress.counts.values()) == progress.total
            if batch.status is BatchStatus.IN_REVIEW:
                return Counter(progress.counts)
    raise AssertionError("the batch has ended")


async def test_items_run_and_their_outputs_are_staged_labelled_and_exported(suite: Suite) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        items = [BatchInput({"n": n}, key=f"k{n}", current={"doubled": 0}) for n in range(40)]
        batch = await client.batches.create(spec(idempotency_key="once"), items)
        assert await in_review(client, batch.batch_id) == {
            BatchItemStatus.STAGED: 36,
            BatchItemStatus.SKIPPED: 4,
        }
        again = await client.batches.create(spec(idempotency_key="once"), items)
        assert again.batch_id == batch.batch_id
        found = [item async for item in client.batches.items(batch.batch_id, page_size=7)]
        assert [item.index for item in found] == list(range(40))
        assert found[3].output == {"doubled": 6, "kind": "number"}
        assert (found[3].label, found[3].key, found[3].attempts) == ("number", "k3", 1)
        assert {change.path: change.after for change in found[3].changes} == {"doubled": 6, "kind": "number"}
        assert found[7].failure is not None
        assert found[7].failure.reason == "PERMANENT"
        lines = b"".join([part async for part in client.batches.export(batch.batch_id)]).splitlines()
        assert [json.loads(line).get("index", "0") for line in lines] == [str(n) for n in range(40)]
        table = b"".join([part async for part in client.batches.export(batch.batch_id, form="csv")])
        assert table.decode().splitlines()[1] == "k0,STAGED,number,,,0,number"
        with pytest.raises(errors.BatchNotReady):
            await client.batches.start(batch.batch_id)
    async with Client(suite.invoker_addresses[0], tenant="other") as other:
        with pytest.raises(errors.BatchNotFound):
            await other.batches.get(batch.batch_id)
        with pytest.raises(errors.BatchNotFound):
            await anext(other.batches.export(batch.batch_id))
        assert [each async for each in other.batches.list()] == []


@pytest.mark.parametrize("victims", [["invoker"], ["runner"], ["invoker", "runner", "checkpoint"]])
async def test_a_batch_goes_on_after_kills_and_nothing_is_skipped_or_doubled(
    suite: Suite, victims: list[str]
) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        items = [BatchInput({"n": n * 10}) for n in range(150)]
        batch = await client.batches.create(spec(max_parallelism=20), items)
        async with asyncio.timeout(DEADLINE_S), client.batches.watch(batch.batch_id, interval=0.1) as updates:
            async for _, progress in updates:
                if progress.counts.get(BatchItemStatus.STAGED, 0) >= 15:
                    break
        for victim in victims:
            await suite.processes[victim].kill()
        assert await in_review(client, batch.batch_id) == {BatchItemStatus.STAGED: 150}
        runs = [run async for run in client.list_runs()]
        assert len(runs) == 150


async def test_what_is_malformed_is_named(suite: Suite) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        with pytest.raises(errors.InvalidField) as wrong:
            await client.batches.create(spec(max_parallelism=10_001, tolerated_share=2.0), [])
        named = {violation.field for violation in wrong.value.violations}
        assert named == {"spec.max_parallelism", "spec.tolerance.max_share"}
        with pytest.raises(errors.UnknownIntent):
            await client.batches.create(BatchSpec(Invocation("nobody")), [])
        with pytest.raises(errors.InvalidField):
            await client.batches.create(spec(), [BatchInput({}, key="a"), BatchInput({}, key="a")])
