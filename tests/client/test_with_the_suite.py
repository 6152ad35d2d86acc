"""A client against the real services holds the true transcript while they are killed under it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.client import Client, Event, Rewound, Snapshot, Update
from holdfast.dev import Suite

DEADLINE_S = 90.0
AGENT = """
import asyncio
from typing import Any

from holdfast.agent import App, Run

app = App("teller")


async def wait(number: int) -> int:
    await asyncio.sleep(0.2)
    return number


@app.agent("count")
async def count(run: Run, payload: dict[str, Any]) -> int:
    total = 0
    for number in range(payload["to"]):
        run.say(f"number {number}")
        total += await run.step(wait, number)
    return total
"""


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Suite]:
    (tmp_path / "teller.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Suite(agents=["teller:app"], database_url=database_url) as running:
        yield running


def applied(updates: list[Update]) -> list[tuple[int, str, str]]:
    """Apply a stream in order, as the contract says."""
    held: list[Event] = []
    for update in updates:
        assert not isinstance(update, Snapshot)
        if isinstance(update, Rewound):
            held = [event for event in held if event.sequence <= update.to_sequence]
        else:
            assert update.sequence == (held[-1].sequence if held else 0) + 1
            held.append(update)
    return [(event.sequence, event.kind, event.text) for event in held]


@pytest.mark.parametrize("victim", ["invoker", "runner", "checkpoint"])
async def test_a_watcher_holds_the_true_transcript_through_a_kill(suite: Suite, victim: str) -> None:
    updates: list[Update] = []
    async with Client(suite.invoker_addresses[0]) as client:
        handle = await client.invoke("count", {"to": 10})
        async with asyncio.timeout(DEADLINE_S), handle.watch() as stream:
            async for update in stream:
                updates.append(update)
                if isinstance(update, Event) and update.text == "number 4" and update.attempt == 1:
                    await suite.processes[victim].kill()
        run = await handle.ended()
        assert run.status.name == "SUCCEEDED"
        assert run.outcome is not None
        assert run.outcome.result == 45
        async with asyncio.timeout(DEADLINE_S), client.watch(handle.run_id) as stream:
            transcript = applied([update async for update in stream])
    assert suite.processes[victim].starts == 2
    assert applied(updates) == transcript
    assert [text for _, kind, text in transcript if kind == "said"] == [f"number {n}" for n in range(10)]
    assert transcript[-1][0] == run.last_sequence
