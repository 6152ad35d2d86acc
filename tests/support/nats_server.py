"""A real nats-server with JetStream, to be killed and to come back with what it had."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import nats
import pytest
from nats.aio.client import Client

_TOOLS: Final = Path(__file__).parents[2] / ".tools" / "bin" / "nats-server"
EXECUTABLE: Final = str(_TOOLS) if _TOOLS.exists() else shutil.which("nats-server")
needs_nats: Final = pytest.mark.skipif(
    EXECUTABLE is None, reason="there is no nats-server: `make nats` builds it where Go is at hand"
)
_PATIENCE_S: Final = 30.0


class NatsServer:
    """A server on a port of its own; `config` is its configuration beside that."""

    def __init__(self, folder: Path, config: str = "", *, jetstream: bool = True) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"nats://127.0.0.1:{self.port}"
        self._file = folder / "nats.conf"
        self._file.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\n'
            + (f'jetstream: {{ store_dir: "{folder / "jetstream"}", sync_interval: always }}\n' * jetstream)
            + config
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        assert EXECUTABLE is not None
        self._process = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            "-c",
            str(self._file),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                assert self._process.returncode is None, "nats-server ended"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it is gone. Repeatable."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    @asynccontextmanager
    async def client(self, **login: str) -> AsyncIterator[Client]:
        """Connect to it."""

        async def quiet(error: Exception) -> None:
            del error

        client = await nats.connect(self.url, error_cb=quiet, **login)
        try:
            yield client
        finally:
            await client.close()


@asynccontextmanager
async def nats_server(folder: Path, config: str = "", *, jetstream: bool = True) -> AsyncIterator[NatsServer]:
    """Run a server for a block."""
    server = NatsServer(folder, config, jetstream=jetstream)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
