"""A proxy before PostgreSQL that loses the answer to a chosen COMMIT, or everything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class PostgresProxy:
    """Listens on loopback, speaks to PostgreSQL's socket."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._user = parts.username
        self._database = parts.path
        query = parse_qs(parts.query)
        self._socket = str(Path(query["host"][0]) / f".s.PGSQL.{query.get('port', ['5432'])[0]}")
        self._marker: bytes | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    def lose_commit_after(self, marker: bytes) -> None:
        """Lose the answer to the next COMMIT of a connection that says `marker` from now on, once."""
        self._marker = marker

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://{self._user}@127.0.0.1:{port}{self._database}"

    async def stop(self) -> None:
        """Cut everything."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._socket)
        self._writers |= {writer, up_writer}
        losing = asyncio.Event()
        down = asyncio.create_task(self._down(up_reader, writer, losing))
        marked = False
        try:
            while data := await reader.read(1 << 16):
                if self._marker is not None and self._marker in data:
                    marked = True
                if marked and b"COMMIT" in data:
                    marked, self._marker = False, None
                    losing.set()
                up_writer.write(data)
        except OSError:
            pass
        finally:
            down.cancel()
            for one in (writer, up_writer):
                self._writers.discard(one)
                one.close()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if losing.is_set():
                    break  # PostgreSQL has answered: what it was asked is done
                writer.write(data)
        writer.close()


@asynccontextmanager
async def postgres_proxy(url: str) -> AsyncIterator[PostgresProxy]:
    """Run a proxy for the block."""
    proxy = PostgresProxy(url)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
