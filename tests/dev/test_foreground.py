"""`holdfast dev` as a person runs it: up with one command, down with Ctrl-C, nothing left in any case."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from holdfast.client import Client

DEADLINE_S = 60.0
AGENT = """
from typing import Any

from holdfast.agent import App, Run

app = App("greeting")


async def say(word: str) -> str:
    return word


@app.agent("greet")
async def greet(run: Run, payload: dict[str, Any]) -> str:
    return await run.step(say, "WORD")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's account can enter, with an agent in it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "greeting.py").write_text(AGENT)
        yield path


class Dev:
    """A running `holdfast dev`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.where: dict[str, Any] = {}

    async def up(self) -> None:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), DEADLINE_S)
        assert line, self.log.read_text()
        self.where = json.loads(line)

    def family(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    async def greeting(self) -> Any:
        async with Client(self.where["grpc"]) as client:
            return await (await client.invoke("greet")).result(patience=DEADLINE_S)


async def start(folder: Path, *arguments: str) -> Dev:
    log = folder / "dev.log"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "holdfast.cli", "dev", "--agents", "greeting:app", "--json", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
        )
    return Dev(process, log)


@pytest.fixture
async def dev(folder: Path) -> AsyncIterator[Dev]:
    running = await start(folder, "--port", "0", "--ephemeral")
    try:
        await running.up()
        yield running
    finally:
        await stopped(running)


async def stopped(running: Dev) -> int:
    if running.process.returncode is None:
        running.process.send_signal(signal.SIGINT)
    return await asyncio.wait_for(running.process.wait(), DEADLINE_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a state of other processes
            await asyncio.sleep(0.02)


def alive(pids: list[int]) -> list[int]:
    def lives(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in pids if lives(pid)]


async def test_it_runs_agents_and_ctrl_c_leaves_nothing(dev: Dev, folder: Path) -> None:
    assert set(dev.where) == {
        *(
            "grpc",
            "checkpoint",
            "approval",
            "dispatcher",
            "runner",
            "console",
            "edge",
            "database_url",
            "metrics",
            "pids",
        ),
    }
    assert set(dev.where["metrics"]) == {"invoker", "checkpoint", "approval", "dispatcher", "runner"}
    async with httpx.AsyncClient(trust_env=False) as prometheus:
        for service, page in dev.where["metrics"].items():
            assert f'holdfast_service{{service="{service}"}} 1.0' in (await prometheus.get(page)).text
    async with httpx.AsyncClient(base_url=dev.where["console"], follow_redirects=True) as browser:
        assert "Sign in" in (await browser.get("/")).text
    assert await dev.greeting() == "WORD"
    family = dev.family()
    assert set(dev.where["pids"].values()) < set(family)
    assert (folder / ".holdfast" / "dev.json").exists()
    assert await stopped(dev) == 0
    assert alive(family) == []
    assert list((folder / ".holdfast").iterdir()) == []


async def test_its_children_die_with_it_even_when_it_is_killed(dev: Dev) -> None:
    family = dev.family()
    os.kill(dev.process.pid, signal.SIGKILL)
    await dev.process.wait()
    await until(lambda: alive(family) == [])


async def test_changed_agents_are_taken_up_and_the_rest_goes_on(dev: Dev, folder: Path) -> None:
    assert await dev.greeting() == "WORD"
    (folder / "greeting.py").write_text(AGENT.replace("WORD", "another"))
    await until(lambda: "greeting.py changed" in dev.log.read_text())
    async with asyncio.timeout(DEADLINE_S):
        while await dev.greeting() != "another":  # noqa: ASYNC110 - what another process answers
            await asyncio.sleep(0.05)
    assert dev.where["pids"]["invoker"] in dev.family()
    assert dev.where["pids"]["runner"] not in dev.family()


async def test_agents_that_do_not_start_wait_for_the_next_change(dev: Dev, folder: Path) -> None:
    (folder / "greeting.py").write_text("this is no Python")
    await until(lambda: "stays down until the code changes" in dev.log.read_text())
    (folder / "greeting.py").write_text(AGENT.replace("WORD", "healed"))
    assert await dev.greeting() == "healed"


async def test_a_busy_port_is_one_sentence_and_exit_code_1(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        refused = await start(folder, "--port", str(port), "--ephemeral")
        assert await asyncio.wait_for(refused.process.wait(), DEADLINE_S) == 1
    assert refused.log.read_text() == (
        f"Error: Port {port} of 127.0.0.1 is in use; name another one with --port, or 0 for any.\n"
    )
    assert not (folder / ".holdfast").exists()


async def test_ctrl_c_while_it_starts_leaves_nothing(folder: Path) -> None:
    starting = await start(folder, "--port", "0", "--ephemeral")
    await until(lambda: len(starting.family()) >= 3)
    family = starting.family()
    assert await stopped(starting) == 0
    assert alive(family) == []


async def test_runs_outlive_the_suite_in_the_folder_s_own_data(folder: Path) -> None:
    first = await start(folder, "--port", "0")
    await first.up()
    await first.greeting()
    assert await stopped(first) == 0
    second = await start(folder, "--port", "0")
    await second.up()
    async with Client(second.where["grpc"]) as client:
        assert [run.status.name async for run in client.list_runs()] == ["SUCCEEDED"]
    assert await stopped(second) == 0
    assert (folder / ".holdfast" / "postgres").is_dir()
