"""The `holdfast` command as a real process, and a scripted server to speak to."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.client.contract_server import ContractServer, contract_server

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Holdfast = Callable[..., Awaitable[Ended]]


async def start(*arguments: str, folder: Path, **environment: str) -> asyncio.subprocess.Process:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdfast.cli",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={**kept, **environment},
    )


async def finish(process: asyncio.subprocess.Process, given: str = "") -> Ended:
    out, err = await asyncio.wait_for(process.communicate(given.encode()), DEADLINE_S)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def server() -> AsyncIterator[ContractServer]:
    async with contract_server() as running:
        yield running


@pytest.fixture
def holdfast(server: ContractServer, tmp_path: Path) -> Holdfast:
    """Run the command against the scripted server, in an empty folder."""

    async def run(*arguments: str, given: str = "") -> Ended:
        addresses = {"HOLDFAST_ADDRESS": server.address, "HOLDFAST_DISPATCHER_ADDRESS": server.address}
        return await finish(await start(*arguments, folder=tmp_path, **addresses), given)

    return run
