"""The way to PostgreSQL over TCP, which a test can cut and mend."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


class Cord:
    """Relays a loopback port to the unix socket of `url`; `cut` breaks what is open and lets nothing new in.

    `hang` says nothing more on what is open, as a network that has lost its far end; new ones get through.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        query = parse_qs(self._parts.query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._server: asyncio.Server | None = None
        self._port = 0
        self._relays: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def url(self) -> str:
        """The database over the cord."""
        user = self._parts.username
        return f"postgresql://{user}@127.0.0.1:{self._port}{self._parts.path}"

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Let through again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break every connection and refuse new ones. Repeatable."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def hang(self) -> None:
        """Hold back everything that is sent on connections open now, for good and without a word."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # accepted before the cut, begun after it
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        far: asyncio.StreamWriter | None = None
        flowing = self._flowing
        try:
            far_reader, far = await asyncio.open_unix_connection(self._socket)
            await asyncio.wait(
                [
                    asyncio.create_task(_flow(reader, far, flowing)),
                    asyncio.create_task(_flow(far_reader, writer, flowing)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (OSError, asyncio.CancelledError):
            return  # PostgreSQL is away, or the cord is cut
        finally:
            self._relays.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()


async def _flow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    with suppress(OSError):
        while chunk := await reader.read(64 * 1024):
            if not flowing.is_set():
                await asyncio.Event().wait()  # until the relay is cut
            writer.write(chunk)
            await writer.drain()
