"""A whole suite with sealed payloads: agents and clients understand each other, and nobody else does."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from holdfast.agent.replay import Verdict, replay
from holdfast.client import (
    BatchInput,
    BatchItemStatus,
    BatchSpec,
    BatchStatus,
    Client,
    Event,
    Invocation,
    Person,
    RunUnsuccessful,
)
from holdfast.dev import Suite
from holdfast.payload import AesSiv, is_sealed
from tests.kit.until import until
from tests.payload.agents import app

PATIENCE = 60.0
WORD = "quicksilver"
KEYS = {"new": b"n" * 64, "old": b"o" * 32}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return the file with the keys."""
    file = tmp_path / "keys"
    file.write_text("".join(f"{name} {base64.b64encode(key).decode()}\n" for name, key in KEYS.items()))
    return file


@pytest.fixture
async def suite(database_url: str, keys: Path) -> AsyncIterator[Suite]:
    """Run services that are told of no key, and a runner that is."""
    told = {"HOLDFAST_PAYLOAD_KEYS_FILE": str(keys)}
    async with Suite(["tests.payload.agents:app"], database_url=database_url, environment=told) as suite:
        yield suite


def client_of(suite: Suite, codec: AesSiv | None) -> Client:
    """Return a client that can, or cannot, read payloads."""
    at = suite.addresses
    return Client(at["invoker"], checkpoint=at["checkpoint"], approval=at["approval"], codec=codec)


async def ledger(url: str) -> str:
    """Return all that is in all tables, as text, and what of it is bytes as the text that those are."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
            "WHERE schemaname = 'holdfast'"
        )
        rows = [
            value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for table in tables
            for row in await connection.fetch(f"SELECT * FROM {table['name']}")
            for value in row.values()
        ]
        return "\n".join(rows)
    finally:
        await connection.close()


async def whispered(suite: Suite, client: Client) -> tuple[str, Any]:
    """Have the agent say the word everywhere, its runner killed in between; return the run and its result."""
    told: dict[str, Any] = {"session_id": "talk", "idempotency_key": "once", "user": "ada"}
    run = await client.invoke("whisper", {"word": WORD}, **told)
    again = await client.invoke("whisper", {"word": WORD}, **told)
    assert (again.run_id, again.reattached) == (run.run_id, True)

    async def is_parked() -> bool:
        return (await client.get_run(run.run_id)).status.name == "PARKED"

    await until(is_parked, deadline=PATIENCE)
    await suite.runners[0].kill()
    await client.signal(run.run_id, "more", {"word": WORD})
    boss = client.approvals(Person("boss"))
    found: list[Any] = []

    async def asked() -> bool:
        found[:] = [each async for each in boss.list(run_id=run.run_id)]
        return bool(found)

    await until(asked, deadline=PATIENCE)
    assert found[0].payload == {"word": WORD}
    await boss.approve(found[0].approval_id, edited={"word": WORD, "edited": True})
    return run.run_id, await run.result(patience=PATIENCE)


@pytest.mark.timeout(300)
async def test_agents_and_clients_say_it_and_nothing_between_them_can(suite: Suite, keys: Path) -> None:
    codec = AesSiv.from_file(keys)
    async with client_of(suite, codec) as client:
        run_id, result = await whispered(suite, client)
        assert result == {
            "found": {"found": WORD},
            "tool": f"told {WORD}",
            "child": {"found": WORD},
            "heard": {"word": WORD},
            "approved": {"word": WORD, "edited": True},
            "before": {},
        }
        assert (await client.sessions.get("talk")).state == {"word": WORD}
        said = [event.text async for event in client.watch(run_id) if isinstance(event, Event) and event.text]
        assert said == [f"I say {WORD}", f"piece of {WORD}"]
        points = [each async for each in client.list_checkpoints(run_id)]
        assert points[0].output == {"found": WORD}
        assert (await client.get_run(run_id)).payload == {"word": WORD}
        past = await client.past(run_id)
        replayed = await replay(app, "repeat", {"word": "x"}, ())
        assert replayed.verdict is not Verdict.FAILS
        assert any(WORD.encode() in record for record in past.records)
        forked = await client.fork(run_id, 1, outputs={points[0].key: {"found": "other " + WORD}})
        assert (await client.get_run(forked.run_id)).payload == {"word": WORD}
        await forked.cancel()
        await client.publish([Invocation("repeat", {"word": WORD}, idempotency_key="event")])
        async with client.converse("repeat", {"word": WORD}) as live:
            ends = [each async for each in live if isinstance(each, Event) and each.kind == "ended"]
        assert WORD in str(ends[0])
    everything = await ledger(suite.database_url)
    assert run_id in everything, "that is where it would be found"
    assert WORD not in everything
    assert all(WORD not in suite.log(name) for name in suite.processes)
    async with client_of(suite, None) as stranger:
        run = await stranger.get_run(run_id)
        assert run.outcome is not None
        assert is_sealed(run.payload)
        assert is_sealed(run.outcome.result)
    old = AesSiv({"old": KEYS["old"]})
    async with client_of(suite, old) as before:  # one that has not heard of the new key yet
        handle = await before.invoke("repeat", {"word": WORD})
        ended = await handle.ended(patience=PATIENCE)
        assert ended.outcome is not None
        assert is_sealed(ended.outcome.result), "the runner read it, and answers with the newest key"
    async with client_of(suite, AesSiv({"new": b"x" * 64})) as wrong:
        with pytest.raises(RunUnsuccessful, match="sealed") as refused:
            await (await wrong.invoke("repeat", {"word": WORD})).result(patience=PATIENCE)
        assert WORD not in str(refused.value)


@pytest.mark.timeout(300)
async def test_items_of_batches_are_sealed_also_where_many_share_a_run(suite: Suite, keys: Path) -> None:
    async with client_of(suite, AesSiv.from_file(keys)) as client:
        await (await client.invoke("light", {"word": WORD})).result(patience=PATIENCE)
        for intent in ("light", "repeat"):
            spec = BatchSpec(Invocation(intent, {"word": ""}), start_when_uploaded=True)
            batch = await client.batches.create(
                spec, [BatchInput({"word": f"{WORD} {n}"}) for n in range(20)]
            )
            async with (
                asyncio.timeout(PATIENCE),
                client.batches.watch(batch.batch_id, interval=0.1) as updates,
            ):
                async for seen, progress in updates:
                    if seen.status is BatchStatus.IN_REVIEW:
                        assert progress.counts == {BatchItemStatus.STAGED: 20}
                        break
            items = [item async for item in client.batches.items(batch.batch_id)]
            assert [item.output for item in items] == [{"found": f"{WORD} {n}"} for n in range(20)]
    assert WORD not in await ledger(suite.database_url)


async def test_the_command_line_reads_with_the_keys(suite: Suite, keys: Path, tmp_path: Path) -> None:
    where = ["--address", suite.addresses["invoker"], "-o", "json"]
    data = json.dumps({"word": WORD})
    told = await _holdfast("invoke", "repeat", "-d", data, *where, "--payload-keys", str(keys))
    assert told.returncode == 0, told.stderr
    run = json.loads(told.stdout.splitlines()[-1])
    assert WORD in told.stdout
    shown = await _holdfast("runs", "get", run["run_id"], *where)
    assert WORD not in shown.stdout
    assert "holdfast.sealed" in shown.stdout
    bad = tmp_path / "bad"
    bad.write_text("nonsense\n")
    refused = await _holdfast("runs", "get", run["run_id"], *where, "--payload-keys", str(bad))
    assert refused.returncode == 2
    assert "Line 1 of" in refused.stderr


async def _holdfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holdfast.cli", *arguments]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
