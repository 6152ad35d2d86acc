"""The Envoy of deploy/envoy, as it stands there, in front of services on this machine."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

CONFIG: Final = Path(__file__).parents[2] / "deploy/envoy/envoy.yaml"
CLUSTERS: Final = ("invoker", "checkpoint", "approval", "dispatcher")
_TOOLS: Final = Path(__file__).parents[2] / ".tools/envoy/envoy/_bin/envoy"
EXECUTABLE: Final = str(_TOOLS) if _TOOLS.exists() else shutil.which("envoy")
needs_envoy: Final = pytest.mark.skipif(
    EXECUTABLE is None, reason="there is no Envoy: `make envoy` installs it where PyPI has it"
)
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Envoy:
    """An Envoy that takes clients."""

    address: str
    admin: str

    async def statistics(self, pattern: str) -> dict[str, int]:
        """Return its counters and gauges whose names match."""
        read = await _read(self.admin, f"/stats?format=json&filter={pattern}")
        return {one["name"]: one["value"] for one in read["stats"] if "name" in one}


def configuration(folder: Path, services: Mapping[str, str], replaced: Mapping[str, str]) -> str:
    """Return the example with this machine's addresses; `folder` has the certificates, as the example's has.

    What `replaced` has in addition is another here, by what stands there.
    """
    text = CONFIG.read_text("utf-8").replace("/etc/envoy", str(folder))
    text = text.replace("address: 0.0.0.0, port_value: 8443", "address: 127.0.0.1, port_value: 0")
    text = text.replace("port_value: 9901", "port_value: 0")
    for name in CLUSTERS:
        there = f"address: localhost, port_value: {services[name].rpartition(':')[2]}"
        text, count = re.subn(rf"address: holdfast-{name}\.holdfast\.svc, port_value: \d+", there, text)
        assert count == 1, name
    for word, other in replaced.items():
        assert text.count(word) == 1, word
        text = text.replace(word, other)
    return text


@asynccontextmanager
async def envoy(folder: Path, config: str) -> AsyncIterator[Envoy]:
    """Run Envoy for a block; what it logs is in `folder`."""
    file, admin, log = folder / "envoy.yaml", folder / "admin", folder / "envoy.log"
    file.write_text(config)
    assert EXECUTABLE is not None
    arguments = ("-c", file, "--admin-address-path", admin, "--concurrency", "1", "--disable-hot-restart")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            EXECUTABLE, *arguments, "--log-level", "warning", stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while not admin.exists() or not admin.read_text():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
            address = await _listening(admin.read_text())
        yield Envoy(address, admin.read_text())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(admin: str) -> str:
    """Wait until clients are taken, and return where."""
    while True:
        (listener,) = (await _read(admin, "/listeners?format=json"))["listener_statuses"]
        port = listener["local_address"]["socket_address"]["port_value"]
        if port:
            return f"127.0.0.1:{port}"
        await asyncio.sleep(0.02)


async def _read(admin: str, path: str) -> Any:
    async with httpx.AsyncClient(base_url=f"http://{admin}", trust_env=False) as reader:
        return (await reader.get(path)).json()
