"""`holdfast batch` against the real services, as a person at a keyboard and as a script has it."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.dev import Suite
from tests.cli.conftest import DEADLINE_S, Ended, finish, start

AGENT = """
from typing import Any

from holdfast.agent import App, Permanent, Run

app = App("sorter")


@app.agent("double", light=True)
async def double(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    number = int(payload["n"])
    if number == 7:
        raise Permanent("sevens are not doubled")
    return {"doubled": 2 * number}
"""


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Suite]:
    (tmp_path / "sorter.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Suite(agents=["sorter:app"], database_url=database_url) as running:
        yield running


async def typed(suite: Suite, folder: Path, *arguments: str) -> Ended:
    address = suite.addresses["invoker"]
    return await finish(await start("batch", *arguments, folder=folder, HOLDFAST_ADDRESS=address))


async def test_a_file_becomes_a_batch_that_is_started_followed_retried_and_exported(
    suite: Suite, tmp_path: Path
) -> None:
    rows = "\n".join(f"c{n},{n}" for n in range(20))
    (tmp_path / "items.csv").write_text(f"id,n\n{rows}\n")
    send = ("create", "double", "items.csv", "--key", "id", "--idempotency-key", "once", "-o", "json")
    made = await typed(suite, tmp_path, *send, "--max-failure-share", "1")
    assert made.code == 0, made.err
    (batch,) = made.json
    assert (batch["status"], batch["uploaded_items"]) == ("READY", 20)
    again = await typed(suite, tmp_path, *send, "--max-failure-share", "1")
    assert again.json[0]["batch_id"] == batch["batch_id"], "the same key goes on with the same batch"
    batch_id = batch["batch_id"]
    assert (await typed(suite, tmp_path, "start", batch_id)).code == 0
    followed = await typed(suite, tmp_path, "watch", batch_id, "--interval", "0.1")
    assert followed.code == 0, followed.err
    last = followed.out.splitlines()[-1]
    assert last.startswith("IN_REVIEW  20/20  19 staged, 1 skipped"), "plain lines where no terminal is"
    assert "\x1b" not in followed.out
    shown = await typed(suite, tmp_path, "get", batch_id)
    assert "failed: PERMANENT" in shown.out
    listed = (await typed(suite, tmp_path, "items", batch_id, "--status", "skipped", "-o", "json")).json
    assert [(item["key"], item["failure"]["reason"]) for item in listed] == [("c7", "PERMANENT")]
    counted = await typed(suite, tmp_path, "retry", batch_id, "--dry-run", "-o", "json")
    assert counted.json == [{"items": 1, "status": "IN_REVIEW"}]
    tried = await typed(suite, tmp_path, "retry", batch_id, "-o", "json")
    assert tried.json == [{"items": 1, "status": "RUNNING"}]
    assert (await typed(suite, tmp_path, "watch", batch_id, "--interval", "0.1")).code == 0
    lines = (await typed(suite, tmp_path, "export", batch_id)).out.splitlines()
    assert [json.loads(line)["input"]["key"] for line in lines] == [f"c{n}" for n in range(20)]
    table = (await typed(suite, tmp_path, "export", batch_id, "--format", "csv", "--status", "staged")).out
    assert table.splitlines()[:2] == ["key,status,label,confidence,review,doubled", "c0,STAGED,,,,0"]
    assert [each["batch_id"] for each in (await typed(suite, tmp_path, "list", "-o", "json")).json] == [
        batch_id
    ]


async def test_a_batch_is_held_changed_let_go_and_ended_and_nonsense_is_refused_in_a_sentence(
    suite: Suite, tmp_path: Path
) -> None:
    (tmp_path / "items.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(5)))
    made = await typed(suite, tmp_path, "create", "double", "items.jsonl", "-o", "json")
    batch_id = made.json[0]["batch_id"]
    early = await typed(suite, tmp_path, "pause", batch_id)
    assert early.code != 0
    assert "READY" in early.err
    changed = await typed(suite, tmp_path, "update", batch_id, "--parallelism", "2", "-o", "json")
    assert changed.json[0]["max_parallelism"] == 2
    ended = await typed(suite, tmp_path, "cancel", batch_id, "--reason", "enough", "-o", "json")
    assert ended.json[0]["status"] == "CANCELLED"
    assert (await typed(suite, tmp_path, "watch", batch_id, "--interval", "0.1")).code == 0
    assert (await typed(suite, tmp_path, "resume", batch_id)).code != 0
    for content, sentence in (
        ('{"n": 1}\nno\n', "Line 2 is not JSON"),
        ("[1]\n", "Line 1 is not a JSON object"),
    ):
        (tmp_path / "bad.jsonl").write_text(content)
        bad = await typed(suite, tmp_path, "create", "double", "bad.jsonl")
        assert bad.code != 0
        assert sentence in bad.err
        assert "Traceback" not in bad.err
    unknown = await typed(suite, tmp_path, "create", "nobody", "items.jsonl")
    assert unknown.code != 0
    assert "nobody" in unknown.err


async def test_a_terminal_has_a_bar_that_is_drawn_anew(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(5)))
    made = await typed(suite, tmp_path, "create", "double", "items.jsonl", "--start", "-o", "json")
    ours, theirs = pty.openpty()
    watching = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "holdfast.cli", "batch", "watch", made.json[0]["batch_id"], "--interval", "0.1"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "HOLDFAST_ADDRESS": suite.addresses["invoker"], "TERM": "xterm", "COLUMNS": "150"},
    )
    os.close(theirs)
    try:
        shown = await asyncio.wait_for(asyncio.to_thread(_all_of, ours), DEADLINE_S)
    finally:
        os.close(ours)
    assert await watching.wait() == 0
    assert b"IN_REVIEW" in shown
    assert b"5/5" in shown
    assert b"\x1b[" in shown


def _all_of(terminal: int) -> bytes:
    """Read a terminal until nobody writes to it any more."""
    told = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # as Linux says that the other side is closed
            return told
        if not part:
            return told
        told += part
