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
    FollowUp,
    Invocation,
    ItemReview,
    Person,
    RunStatus,
)
from holdfast.dev import Suite
from tests.kit.until import until

DEADLINE_S = 120.0
PUBLISH = Invocation("publish", {"where": "here"})
AGENT = """
from pathlib import Path
from typing import Any

from holdfast.agent import App, Permanent, Run, step

FILE = Path(__file__).with_name("said")
app = App("writer")


@app.agent("propose")
async def propose(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    return {"text": f"letter {payload['n']}"}


@app.agent("publish")
async def publish(run: Run, payload: dict[str, Any]) -> str:
    if payload["output"]["text"] == "letter 3":
        raise Permanent("nobody prints the third")
    return payload["where"] + ": " + payload["output"]["text"]


async def note(what: str) -> None:
    with FILE.open("a") as file:
        file.write(what + "\\n")


async def unprint(n: str) -> None:
    await note("unprinted " + n)


@step(undo=unprint)
async def print_it(n: str) -> None:
    await note("printed " + n)


@app.agent("print", undo_on=("failure", "cancel"))
async def print_letter(run: Run, payload: dict[str, Any]) -> str:
    text = payload["output"]["text"]
    await run.step(print_it, text)
    if text == "letter 3":
        await run.receive("go")
    return "copy of " + text


@app.agent("retract")
async def retract(run: Run, payload: dict[str, Any]) -> str:
    if payload["output"]["text"] == "letter 2":
        raise Permanent("it was read already")
    await run.step(note, payload["why"] + " " + payload["key"] + " " + payload["follow_up_result"])
    return payload["follow_up_run_id"] + " " + str(payload["current"])
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
        assert (await client.batches.apply(batch_id, FollowUp(PUBLISH)))[1] == 5
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


async def test_a_rollback_stops_runs_that_go_on_and_undoes_by_runs_what_others_did_once(
    suite: Suite, tmp_path: Path
) -> None:
    async with Client(suite.invoker_addresses[0]) as client:
        target = FollowUp(Invocation("print"), Invocation("retract", {"why": "wrong"}))
        spec = BatchSpec(Invocation("propose"), start_when_uploaded=True, apply=target)
        items = [BatchInput({"n": n}, f"letter-{n}", {"was": n}) for n in range(5)]
        batch_id = (await client.batches.create(spec, items)).batch_id
        await stands_at(client, batch_id, BatchStatus.IN_REVIEW)
        assert (await client.batches.get(batch_id))[0].apply == target
        await client.batches.review(batch_id, rest=True, reviewer=Person("ann"))
        await client.batches.apply(batch_id)

        async def all_but_one() -> bool:
            _, progress = await client.batches.get(batch_id)
            return progress.counts.get(BatchItemStatus.APPLIED) == 4

        await until(all_but_one)
        await suite.processes["invoker"].kill()
        await client.batches.rollback(batch_id, "misspelt")
        await suite.processes["invoker"].kill()
        await stands_at(client, batch_id, BatchStatus.ROLLED_BACK)
        found = {item.index: item async for item in client.batches.items(batch_id)}
        assert [found[n].status for n in range(5)] == [
            BatchItemStatus.ROLLED_BACK,
            BatchItemStatus.ROLLED_BACK,
            BatchItemStatus.ROLLBACK_FAILED,
            BatchItemStatus.APPLY_FAILED,
            BatchItemStatus.ROLLED_BACK,
        ]
        assert found[2].failure is not None
        assert found[2].failure.message == "it was read already"
        assert found[3].failure is not None
        assert (found[3].failure.reason, found[3].failure.message) == ("CANCELLED", "misspelt")
        assert not found[3].undo_run_id
        stopped = await client.get_run(found[3].follow_up_run_id)
        assert stopped.status is RunStatus.COMPENSATED
        undo = await client.get_run(found[1].undo_run_id)
        assert undo.outcome is not None
        assert undo.outcome.result == f"{found[1].follow_up_run_id} {{'was': 1}}"
        assert undo.idempotency_key == f"batch/{batch_id}/1/undo"
        said = (tmp_path / "said").read_text().splitlines()
        undone = [f"wrong letter-{n} copy of letter {n}" for n in (0, 1, 4)]
        done = [*(f"printed letter {n}" for n in range(5)), "unprinted letter 3"]
        assert sorted(said) == sorted(done + undone)
