"""A PostgreSQL in a process of its own, to be killed, and folders that another account can reach."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from holdfast.embedded import EmbeddedPostgres
from holdfast.embedded.account import choose_account
from holdfast.embedded.leftover import kill_leftovers

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
ROOM_BYTES = 2 * 1024**3


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """A folder any account may enter: pytest's own are closed to the one root hands PostgreSQL to."""
    with _reachable_folder() as folder:
        yield folder


@contextmanager
def _reachable_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=_place()))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        for cluster in (*folder.glob("*/cluster"), *folder.glob("*/*/cluster")):
            kill_leftovers(cluster)  # of a parent that was killed just now
        shutil.rmtree(folder)


def _place() -> Path:
    """In memory where there is room: a cluster is a thousand files, and what is proved is about processes."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        return Path("/tmp")
    status = os.statvfs(memory)
    executable = not status.f_flag & os.ST_NOEXEC
    return memory if executable and status.f_bavail * status.f_frsize > ROOM_BYTES else Path("/tmp")


@pytest.fixture
def new_directory(reachable_folder: Path) -> Path:
    """A data directory that does not exist yet."""
    return reachable_folder / "data"


@pytest.fixture(scope="session")
def pristine() -> Iterator[Path]:
    """A data directory in order, with an empty `holdfast` database, for copies."""
    with _reachable_folder() as folder, asyncio.Runner() as runner:
        runner.run(_make_pristine(folder / "data"))
        yield folder / "data"


async def _make_pristine(directory: Path) -> None:
    async with EmbeddedPostgres(directory) as server:
        await server.create_database("holdfast")


@pytest.fixture
def data_directory(pristine: Path, new_directory: Path) -> Path:
    """A data directory of one's own that has been in use before, with an empty `holdfast` database."""
    shutil.copytree(pristine, new_directory)
    choose_account(pristine).own_tree(new_directory)
    return new_directory


@dataclass(frozen=True)
class Parent:
    """A process that is the parent of a PostgreSQL."""

    process: Process
    pid: int
    url: str
    directory: Path

    def family(self) -> list[psutil.Process]:
        """The server and its children."""
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    async def kill(self) -> None:
        """End the parent with SIGKILL."""
        self.process.kill()
        await self.process.wait()


def as_user(uid: int) -> list[str]:
    """Give the start of a command that runs as another user, who may read (not write) what only we may."""
    reading = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *reading]


Spawn = Callable[..., Awaitable[Process]]
StartParent = Callable[..., Awaitable[Parent]]


@pytest.fixture
async def spawn(reachable_folder: Path) -> AsyncIterator[Spawn]:  # noqa: ARG001 — outlives the processes
    """Start a parent process without waiting for its server; it is gone after the test."""
    processes: list[Process] = []

    async def start(
        directory: Path | None = None, *, uid: int | None = None, tmp: Path | None = None
    ) -> Process:
        wish = json.dumps({"directory": directory and str(directory)})
        environment = dict(os.environ) | ({"TMPDIR": str(tmp)} if tmp else {})
        process = await asyncio.create_subprocess_exec(
            *(as_user(uid) if uid is not None else []),
            *(sys.executable, "-m", "tests.support.postgres_parent", wish),
            cwd=ROOT,
            env=environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def start_parent(spawn: Spawn) -> StartParent:
    """Start a parent process and wait until its server is up."""

    async def start(
        directory: Path | None = None, *, uid: int | None = None, tmp: Path | None = None
    ) -> Parent:
        process = await spawn(directory, uid=uid, tmp=tmp)
        assert process.stdout is not None
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
        assert line, (await process.stderr.read()).decode()
        up = json.loads(line)
        return Parent(process, up["pid"], up["url"], Path(up["directory"]))

    return start


async def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 — the condition is another process's
            await asyncio.sleep(0.002)


def gone(processes: list[psutil.Process]) -> bool:
    """Tell whether all of them have ended; a zombie has."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
