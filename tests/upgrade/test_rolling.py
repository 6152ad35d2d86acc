"""Services of two releases work on one ledger: each is replaced under load, and nobody's run notices."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from holdfast.dev import ServiceProcess
from holdfast.ledger.migrate import migrate, status
from tests.crash.invariant import kept
from tests.crash.load import Load
from tests.crash.world import World
from tests.upgrade.previous import ROOT, unpacked

KINDS = ("checkpoint", "invoker", "approval", "dispatcher", "runner")
"""In the order in which a release is rolled out (docs/operating.md); it is taken back the other way round."""


def path_of(before: str) -> str:
    """Return the PYTHONPATH of a service's process, with the code `before` today's or nothing."""
    return os.pathsep.join(filter(None, [before, str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))


def of_kind(world: World, kind: str) -> list[ServiceProcess]:
    return [process for name, process in world.suite.processes.items() if name.partition("-")[0] == kind]


async def roll(world: World, load: Load, kinds: Sequence[str], path: str) -> None:
    """Replace the services one by one while work goes on, and send some more after each kind."""
    for kind in kinds:
        sending = asyncio.create_task(load.send(12))
        for process in of_kind(world, kind):
            process.tell({"PYTHONPATH": path})
            await process.restart()
        await sending


def uses(process: ServiceProcess, code: str) -> bool:
    """Say whether a process was started with some code before today's."""
    environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    return any(each.startswith(b"PYTHONPATH=") and code.encode() in each for each in environment)


def migrated_by(path: str) -> Callable[[str], Awaitable[None]]:
    """Return what migrates a ledger as another release does."""

    async def migrate_as_then(url: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "holdfast.cli", "db", "migrate", "--database-url", url),
            env={**os.environ, "PYTHONPATH": path},
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0

    return migrate_as_then


async def code_of(path: str) -> str:
    """Say whose ledger a process with this PYTHONPATH works with."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "import holdfast.ledger; print(holdfast.ledger.__file__)"),
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
    )
    return (await process.communicate())[0].decode()


async def missing(url: str) -> list[str]:
    return [each.name for each in await status(url) if each.apply_time is None]


@pytest.mark.timeout(900)
async def test_a_release_is_rolled_out_and_taken_back_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = unpacked(tmp_path)
    old, new = path_of(previous), path_of("")
    assert previous.split(":")[-1] in await code_of(old)
    assert str(ROOT) in await code_of(new)
    environments = {kind: {"PYTHONPATH": old} for kind in KINDS}
    monkeypatch.setattr("holdfast.ledger.migrate", migrated_by(old))
    async with World.opened(tmp_path, invokers=2, environments=environments) as world:
        url = world.suite.database_url
        assert await missing(url)
        assert all(uses(process, previous) for process in world.suite.processes.values())
        load = Load(world, seed=7)
        sending = asyncio.create_task(load.send(40))
        await migrate(url, phase="before")
        await sending
        await roll(world, load, KINDS, new)
        assert not any(uses(process, previous) for process in world.suite.processes.values())
        await load.send(12)
        await roll(world, load, KINDS[::-1], old)
        assert all(uses(process, previous) for process in world.suite.processes.values())
        await load.send(12)
        await roll(world, load, KINDS, new)
        await migrate(url)
        assert not await missing(url)
        await load.send(12)
        await kept(world, load)
